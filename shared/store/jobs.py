"""Jobs as users see them: create, look, ask to stop. Runs nothing: a job's holder brings about what is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import case, exists, func, select, text
from sqlalchemy.sql.elements import ColumnElement

from shared.errors import Complaint, InvalidJobState, InvalidRequest
from shared.job import HELD, TERMINAL, Job, Kind, Status, Wanted
from shared.records import NewEvent, Page
from shared.store.checkpoints import holds_answers
from shared.store.claims import WAITS
from shared.store.columns import now, record
from shared.store.engine import Database
from shared.store.moves import JOB_COLUMNS, lock, lock_project, move, save
from shared.store.newjob import NewJob, check_priority, find_twin, insert_job
from shared.store.paging import one, page
from shared.store.tables import jobs
from shared.tongues import Text

Choice = TypeVar("Choice", bound=StrEnum)


class Jobs:
    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        project_id: str,
        *,
        kind: Kind | str,
        spec: Mapping[str, Any],
        name: str | None = None,
        priority: int = 0,
        requires: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        request: Mapping[str, Any] | None = None,
        then: Iterable[Mapping[str, Any]] = (),
        parent_id: str | None = None,
        fingerprint: str | None = None,
        idempotency_key: str | None = None,
        secrets: Mapping[str, str] | None = None,
        findings: Iterable[Any] = (),
        owner: str = "",
    ) -> tuple[Job, bool]:
        """The queued job and True, or False with the job that the same request made before.

        `owner` is who shares the workers fairly within the project, e.g. the id of the API key.
        """
        new = NewJob(
            kind=Kind(kind),
            spec=dict(spec),
            name=name,
            priority=priority,
            requires=dict(requires or {}),
            metadata=dict(metadata or {}),
            request=dict(request or {}),
            then=[dict(entry) for entry in then],
            parent_id=parent_id,
            fingerprint=fingerprint,
            idempotency_key=idempotency_key,
            secrets=dict(secrets or {}),
            findings=tuple(findings),
            owner=owner,
        )
        with self._database.write() as connection:
            lock_project(connection, project_id)
            if twin := find_twin(connection, project_id, new):
                return twin, False
            return insert_job(connection, project_id, new), True

    def get(self, project_id: str, job_id: str) -> Job:
        query = select(*JOB_COLUMNS).where(jobs.c.project_id == project_id, jobs.c.id == job_id)
        with self._database.read() as connection:
            return record(Job, one(connection, query, f"job {job_id!r}"))

    def list(
        self,
        project_id: str,
        *,
        kind: Kind | str | None = None,
        status: Status | str | None = None,
        after: str | None = None,
        limit: int = 20,
        order: str = "desc",
        metadata: Mapping[str, str] | None = None,
    ) -> Page[Job]:
        query = select(*JOB_COLUMNS)
        if kind is not None:
            query = query.where(jobs.c.kind == _one_of(Kind, kind, "kind"))
        if status is not None:
            query = query.where(jobs.c.status == _one_of(Status, status, "status"))
        for key, value in (metadata or {}).items():
            query = query.where(self._has_metadata(key, value))
        with self._database.read() as connection:
            return page(connection, query, jobs, Job, project_id=project_id, after=after, limit=limit, order=order)

    def cancel(self, project_id: str, job_id: str) -> Job:
        """Cancelled at once when nobody holds it, else its holder is asked to; so is the next one where answers of it
        are to be kept. A cancelled job is returned as it is."""
        with self._database.write() as connection:
            job = lock(connection, job_id, project_id)
            if job.status == Status.CANCELLED or (job.status not in TERMINAL and job.wanted == Wanted.CANCEL):
                return job
            if job.status in TERMINAL:
                raise InvalidJobState(
                    "Job {job_id} has {status}: it can no longer be cancelled", job_id=job_id, status=job.status
                )
            if job.status in HELD:
                return save(connection, job, replace(job, wanted=Wanted.CANCEL), [_asked(Wanted.CANCEL, job)])
            if holds_answers(connection, job):
                after = replace(job, status=Status.QUEUED, wanted=Wanted.CANCEL)
                return save(connection, job, after, [_asked(Wanted.CANCEL, job)])
            return move(connection, job, Status.CANCELLED, "Job was cancelled", wanted=Wanted.CANCEL)

    def pause(self, project_id: str, job_id: str) -> Job:
        """Paused at once when nobody holds it, else its holder is asked to write a checkpoint and stop."""
        with self._database.write() as connection:
            job = lock(connection, job_id, project_id)
            if job.status in TERMINAL or job.wanted == Wanted.CANCEL:
                raise InvalidJobState(
                    "Job {job_id} {state}: it can no longer be paused", job_id=job_id, state=_state(job)
                )
            if job.wanted == Wanted.PAUSE:
                return job
            if job.status in HELD:
                return save(connection, job, replace(job, wanted=Wanted.PAUSE), [_asked(Wanted.PAUSE, job)])
            return move(connection, job, Status.PAUSED, "Job was paused", wanted=Wanted.PAUSE)

    def resume(self, project_id: str, job_id: str) -> Job:
        """Queued again; a job that is still pausing goes on as soon as its holder lets go. No-op for one that runs."""
        with self._database.write() as connection:
            job = lock(connection, job_id, project_id)
            if job.status in TERMINAL or job.wanted == Wanted.CANCEL:
                raise InvalidJobState(
                    "Job {job_id} {state}: it can no longer be resumed", job_id=job_id, state=_state(job)
                )
            if job.wanted == Wanted.RUN:
                return job
            if job.status in HELD:
                return save(connection, job, replace(job, wanted=Wanted.RUN), [_asked(Wanted.RUN, job)])
            return move(connection, job, Status.QUEUED, "Job is queued again", wanted=Wanted.RUN)

    def set_priority(self, project_id: str, job_id: str, priority: int) -> Job:
        """Of a job that nobody holds yet; the same as before changes nothing. Raises: InvalidJobState"""
        check_priority(priority)
        with self._database.write() as connection:
            job = lock(connection, job_id, project_id)
            if job.status not in (Status.QUEUED, Status.PAUSED):
                text = "Job {job_id} is {status}: its priority can be changed while it is queued or paused"
                raise InvalidJobState(text, job_id=job_id, status=job.status, field="priority")
            if job.priority == priority:
                return job
            data = {"priority": priority, "before": job.priority}
            told = NewEvent(type="message", message=f"Priority is now {priority}, was {job.priority}", data=data)
            return save(connection, job, replace(job, priority=priority), [told])

    def over(self, job_ids: Iterable[str], before: datetime) -> Iterable[str]:
        """Which of these jobs ended before that moment, of all projects."""
        query = select(jobs.c.id).where(jobs.c.id.in_(list(job_ids)), jobs.c.status.in_(TERMINAL))
        with self._database.read() as connection:
            return set(connection.execute(query.where(jobs.c.finished_at < before)).scalars())

    def queue_depth(self) -> dict[Kind, int]:
        """Jobs that wait for a worker, of all projects; kinds without any have 0."""
        counts = self.counts()
        return {kind: counts.get((kind, Status.QUEUED), 0) for kind in Kind}

    def queue_waits(self) -> dict[tuple[str, str], tuple[int, float]]:
        """(kind, low | normal | high priority) -> how many wait and for how long the oldest does, seconds."""
        named = case((jobs.c.priority < 0, "low"), (jobs.c.priority > 0, "high"), else_="normal").label("named")
        query = select(jobs.c.kind, named, func.count(), func.min(jobs.c.created_at)).where(WAITS)
        moment = now()
        with self._database.read() as connection:
            return {
                (kind.value, name): (count, max(0.0, (moment - oldest).total_seconds()))
                for kind, name, count, oldest in connection.execute(query.group_by(jobs.c.kind, text("2")))
            }

    def counts(self) -> dict[tuple[Kind, Status], int]:
        """Jobs of all projects; pairs without any are left out."""
        query = select(jobs.c.kind, jobs.c.status, func.count()).group_by(jobs.c.kind, jobs.c.status)
        with self._database.read() as connection:
            return {(kind, status): count for kind, status, count in connection.execute(query)}

    def _has_metadata(self, key: str, value: str) -> ColumnElement[bool]:
        # Not metadata["key"]: SQLite's JSON path breaks on a key with a quotation mark, and keys are users'.
        function = func.json_each if self._database.is_sqlite else func.jsonb_each_text
        pairs = function(jobs.c.metadata).table_valued("key", "value")
        return exists(select(1).select_from(pairs).where(pairs.c.key == key, pairs.c.value == value))


def _asked(wanted: Wanted, job: Job) -> NewEvent:
    # A step of this stage is a whole round of drawing, judging and learning, which may take minutes.
    when = " after its round of answers" if job.spec.get("stage") == "ppo" else ""
    message = {
        Wanted.CANCEL: "Cancel was asked for: the worker stops the job",
        Wanted.PAUSE: f"Pause was asked for: the worker writes a checkpoint{when} and stops the job",
        Wanted.RUN: "Resume was asked for: the job goes on, or back to the queue if it is already stopping",
    }[wanted]
    return NewEvent(type="status", message=message, data={"wanted": wanted.value})


def _one_of(kind: type[Choice], value: str, field: str) -> Choice:
    try:
        return kind(value)
    except ValueError as error:
        message = Text("{field} is {value!r}: use one of {allowed}", field=field, value=value, allowed=", ".join(kind))
        raise InvalidRequest(message, complaints=[Complaint(field=field, message=message)]) from error


def _state(job: Job) -> Text:
    ended = job.status in (Status.SUCCEEDED, Status.FAILED)
    return Text("has {status}", status=job.status.value) if ended else Text("was cancelled")
