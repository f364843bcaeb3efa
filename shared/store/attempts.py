"""The worker's half of the ledger: claim, renew, checkpoint, finish, release; and the sweep's: held, reclaim.

Every write of a worker is one transaction that first checks its attempt (moves.hold); LeaseLost means that another
attempt has the job: kill the child, write nothing. `wanted` decides what becomes of a job that stops; a finish beats a
later cancel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, exists, insert, select, update

from shared.errors import LeaseLost, NotFound
from shared.ids import new_id
from shared.job import HELD, MAX_LOST_ATTEMPTS, Job, Kind, Status, Wanted
from shared.records import Attempt, Checkpoint, Claim, Held, NewDataset, NewEvaluation, NewEvent, NewModel
from shared.requirements import Device
from shared.store.checkpoints import holds_answers, in_use, remove
from shared.store.claims import Looker, anything_for, claim, supersede
from shared.store.columns import now, record
from shared.store.discarded import adopt
from shared.store.engine import Database
from shared.store.finish import finish
from shared.store.moves import end_attempt, hold, lock_project, move, save
from shared.store.paging import check_job
from shared.store.tables import attempts, checkpoints, jobs
from shared.tongues import Text


class Attempts:
    def __init__(self, database: Database) -> None:
        self._database = database

    def claim_next(
        self,
        *,
        worker_id: str,
        kinds: Iterable[Kind | str],
        num_devices: int = 0,
        free: Sequence[Device] | None = None,
        machine: Sequence[Device] | None = None,
        labels: Iterable[str] = (),
        storage_id: str | None = None,
        host: str | None = None,
    ) -> Claim | None:
        """A new attempt at the next job that this worker can run; None when there is none.

        `free` are the devices that it could take now, `machine` all that it has; left out, `num_devices` of no
        particular kind, and what is free.
        """
        free = [Device(id=str(number)) for number in range(num_devices)] if free is None else free
        who = Looker(
            worker_id=worker_id,
            kinds=tuple(Kind(kind) for kind in kinds),
            free=tuple(free),
            machine=tuple(free if machine is None else machine),
            labels=tuple(labels),
            storage_id=storage_id,
            host=host,
        )
        with self._database.read() as connection:
            if not anything_for(connection, who):
                return None
        with self._database.write() as connection:
            return claim(connection, who)

    def renew(
        self,
        job_id: str,
        attempt: int,
        *,
        events: Iterable[NewEvent] = (),
        offset: int | None = None,
        phase: str | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> Wanted:
        """One beat, with what happened since the last: events, how far events.jsonl was read, phase, progress.

        Returns what the user wants of the job. Raises: LeaseLost
        """
        with self._database.write() as connection:
            job = hold(connection, job_id, attempt)
            beat: dict[str, Any] = {"beat": attempts.c.beat + 1}
            beat |= {} if offset is None else {"events_offset": offset}
            connection.execute(_row(job_id, attempt).values(beat))
            status = Status.PAUSING if job.wanted == Wanted.PAUSE else Status.RUNNING
            told = [] if status == job.status else [_holder_says(status)]
            after = replace(job, status=status, phase=phase or job.phase, progress={**job.progress, **(progress or {})})
            return save(connection, job, after, [*events, *told]).wanted

    def take_devices(self, job_id: str, attempt: int, names: Sequence[str]) -> None:
        """From now on these devices of its machine are the attempt's. Raises: LeaseLost"""
        with self._database.write() as connection:
            hold(connection, job_id, attempt)
            connection.execute(_row(job_id, attempt).values(devices=list(names)))

    def offset(self, job_id: str, attempt: int) -> int:
        """Bytes of the attempt's events.jsonl whose events are in the ledger."""
        query = select(attempts.c.events_offset).where(attempts.c.job_id == job_id, attempts.c.number == attempt)
        with self._database.read() as connection:
            offset: int | None = connection.execute(query).scalar()
        if offset is None:
            raise NotFound("There is no attempt {attempt} of job {job_id!r}", attempt=attempt, job_id=job_id)
        return offset

    def add_checkpoint(
        self,
        job_id: str,
        attempt: int,
        *,
        step: int,
        uri: str,
        digest: str,
        size_bytes: int,
        metrics: Mapping[str, Any] | None = None,
        name: str | None = None,
        model: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Make uploaded files a checkpoint that a later attempt may resume from; with a `name` it is a `model`, too.

        Raises: LeaseLost
        """
        checkpoint = Checkpoint(
            id=new_id("ckpt-"),
            job_id=job_id,
            attempt=attempt,
            step=step,
            uri=uri,
            digest=digest,
            size_bytes=size_bytes,
            metrics=dict(metrics or {}),
            created_at=now(),
            name=name,
            model=dict(model or {}),
        )
        with self._database.write() as connection:
            job = hold(connection, job_id, attempt)
            if known := _checkpoint_of(connection, checkpoint):
                return known
            connection.execute(insert(checkpoints).values(vars(checkpoint)))
            adopt(connection, [uri, *([model["uri"]] if model else [])])
            message = NewEvent(type="checkpoint", message=f"Checkpoint at step {step}", data=_shown(checkpoint))
            save(connection, job, replace(job, lost_attempts=0), [message])
        return checkpoint

    def remove_checkpoints(
        self, job_id: str, attempt: int, given: Sequence[Checkpoint], why: str | None
    ) -> list[Checkpoint]:
        """Remove those that nothing uses; `why` is told to the user. Raises: LeaseLost"""
        with self._database.write() as connection:
            job = hold(connection, job_id, attempt)
            lock_project(connection, job.project_id)
            used = in_use(connection, job.project_id, given)
            gone = [checkpoint for checkpoint in given if checkpoint.id not in used]
            remove(connection, gone)
            texts = [f"The checkpoint of step {checkpoint.step} was removed: {why}" for checkpoint in gone if why]
            save(connection, job, job, [NewEvent(type="message", message=text) for text in texts])
            return gone

    def skip_checkpoint(self, job_id: str, attempt: int, checkpoint: Checkpoint, why: str) -> None:
        """Its files cannot be used: nothing resumes from it any more, and what came after the one before is done
        again. Raises: LeaseLost"""
        with self._database.write() as connection:
            job = hold(connection, job_id, attempt)
            row = update(checkpoints).where(checkpoints.c.id == checkpoint.id)
            connection.execute(row.values(is_damaged=True))
            supersede(connection, job_id)
            text = f"The checkpoint of step {checkpoint.step} cannot be used, the one before it is taken: {why}"
            save(connection, job, job, [NewEvent(type="message", level="warning", message=text)])

    def finish(
        self,
        job_id: str,
        attempt: int,
        *,
        status: Status,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        models: Sequence[NewModel] = (),
        datasets: Sequence[NewDataset] = (),
        evaluations: Sequence[NewEvaluation] = (),
        events: Iterable[NewEvent] = (),
    ) -> Job:
        """The job is over: succeeded, failed or cancelled, whatever is wanted by now. Raises: LeaseLost

        What it made (models, datasets, evaluations) and the jobs of its `then` come to be in the same transaction.
        """
        with self._database.write() as connection:
            job = hold(connection, job_id, attempt)
            return finish(
                connection,
                job,
                status=Status(status),
                result=dict(result or {}),
                error=dict(error) if error is not None else None,
                models=models,
                datasets=datasets,
                evaluations=evaluations,
                new_events=list(events),
            )

    def release(self, job_id: str, attempt: int, *, status: Status = Status.QUEUED, reason: str = "") -> Job:
        """Let go of a job that is not over, after its child stopped for a pause or a shutdown. Raises: LeaseLost

        `status` is why it stopped (queued: shutdown); what the user wants by now decides where it goes.
        """
        with self._database.write() as connection:
            job = hold(connection, job_id, attempt)
            end_attempt(connection, job, "released", reason or status.value)
            return _stopped(connection, job, reason or "its worker let go of it", job.lost_attempts)

    def retry(
        self,
        job_id: str,
        attempt: int,
        *,
        error: Mapping[str, Any],
        why: str,
        adjustments: Mapping[str, Any] | None = None,
    ) -> Job:
        """Let go of a job whose attempt has failed, for another one that may not. Raises: LeaseLost

        With `adjustments`, which that one runs with, there is an end to how often; without, it counts as a lost one.
        """
        with self._database.write() as connection:
            job = hold(connection, job_id, attempt)
            end_attempt(connection, job, "failed", str(error.get("message")), dict(error))
            told = {"error": dict(error), "adjustments": dict(adjustments or {}), "attempt": attempt}
            failed = NewEvent(type="failure", level="warning", message=str(error.get("message")), data=told)
            lost = job.lost_attempts if adjustments else _num_lost(connection, job)
            adjusted = {**job.adjustments, **(adjustments or {})}
            return _stopped(connection, job, why, lost, error=dict(error), adjustments=adjusted, new_events=[failed])

    def reclaim(self, job_id: str, attempt: int, beat: int | None, reason: str) -> Job:
        """Take the job from a holder whose beat still is `beat`. Raises: LeaseLost when it has moved on since

        None: the holder itself says that the attempt is lost, because a node of it is.
        Queued again, or failed when MAX_LOST_ATTEMPTS in a row brought no new checkpoint.
        """
        with self._database.write() as connection:
            job = hold(connection, job_id, attempt)
            now_at = connection.execute(select(attempts.c.beat).where(*_key(job_id, attempt))).scalar()
            if beat is not None and now_at != beat:
                raise LeaseLost(f"The holder of {job_id} is alive: its beat has moved on from {beat}")
            end_attempt(connection, job, "lost", reason)
            return _stopped(connection, job, reason, _num_lost(connection, job), lost=True)

    def held(self) -> list[Held]:
        """The current attempt of every held job, of all projects."""
        query = (
            select(jobs.c.id, jobs.c.attempt, attempts.c.beat, jobs.c.kind, attempts.c.worker_id)
            .join(attempts, (attempts.c.job_id == jobs.c.id) & (attempts.c.number == jobs.c.attempt))
            .where(jobs.c.status.in_(HELD))
        )
        with self._database.read() as connection:
            return [Held(*row) for row in connection.execute(query)]

    def list(self, project_id: str, job_id: str) -> list[Attempt]:
        """All attempts at a job, oldest first."""
        query = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.number)
        with self._database.read() as connection:
            check_job(connection, project_id, job_id)
            return [record(Attempt, row) for row in connection.execute(query).mappings()]


def _holder_says(status: Status) -> NewEvent:
    message = "Job is pausing: its child writes a checkpoint" if status == Status.PAUSING else "Job is running on"
    return NewEvent(type="status", message=message, data={"status": status.value})


def _key(job_id: str, attempt: int) -> tuple[Any, Any]:
    return attempts.c.job_id == job_id, attempts.c.number == attempt


def _row(job_id: str, attempt: int) -> Any:
    return update(attempts).where(*_key(job_id, attempt))


def _made_in(job_id: str, attempt: int) -> tuple[Any, Any]:
    return checkpoints.c.job_id == job_id, checkpoints.c.attempt == attempt


def _shown(checkpoint: Checkpoint) -> dict[str, Any]:
    names = ("id", "step", "metrics", "name")
    return {name: getattr(checkpoint, name) for name in names} | {"size_bytes": checkpoint.total_bytes}


def _checkpoint_of(connection: Connection, new: Checkpoint) -> Checkpoint | None:
    """The same checkpoint, when an earlier write of it went through but its answer was lost."""
    query = select(checkpoints).where(*_made_in(new.job_id, new.attempt), checkpoints.c.step == new.step)
    row = connection.execute(query).mappings().first()
    return record(Checkpoint, row) if row else None


def _num_lost(connection: Connection, job: Job) -> int:
    """With the current attempt, which is lost: in a row without a new checkpoint."""
    got_on = connection.execute(select(exists().where(*_made_in(job.id, job.attempt)))).scalar()
    return 0 if got_on else job.lost_attempts + 1


def _stopped(
    connection: Connection,
    job: Job,
    reason: str,
    lost_attempts: int,
    *,
    lost: bool = False,
    error: dict[str, Any] | None = None,
    **changes: Any,
) -> Job:
    """Where a job goes whose attempt ended before the job did: `wanted` decides, then the count of lost attempts."""
    data = {"reason": reason, "lost": lost}
    changes |= {"worker_id": None, "phase": None, "lost_attempts": lost_attempts}
    if job.wanted == Wanted.CANCEL and not holds_answers(connection, job):
        return move(connection, job, Status.CANCELLED, "Job was cancelled", data=data, **changes)
    if lost_attempts >= MAX_LOST_ATTEMPTS:
        message = f"{lost_attempts} workers in a row were lost before a new checkpoint was written; the last: {reason}"
        changes["error"] = {"code": "worker_lost", "message": message, "field": None, "retryable": True}
        if error is not None:
            message = f"{lost_attempts} attempts in a row failed before a new checkpoint: {error['message']}"
            changes["error"] = {**error, "message": message}
        return move(connection, job, Status.FAILED, message, level="error", data=data, **changes)
    level = "warning" if lost or error else "info"
    if job.wanted == Wanted.PAUSE:
        paused = Text("Job is paused: {reason}", reason=reason)
        return move(connection, job, Status.PAUSED, paused, level=level, data=data, **changes)
    again = Text("Job is queued again: {reason}", reason=reason)
    return move(connection, job, Status.QUEUED, again, level=level, data=data, **changes)
