"""Which queued job a worker gets, and the new attempt that this begins.

Highest priority first; then who has the fewest jobs running, by project and then by owner; then the oldest. PostgreSQL
locks the row it picks and skips those that others are picking; on SQLite the whole transaction has the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, insert, or_, select, update

from shared.job import HELD, Job, Kind, Status, Wanted
from shared.records import Claim, Worker
from shared.store import members
from shared.store.columns import now, record
from shared.store.moves import JOB_COLUMNS, move
from shared.store.tables import attempts, checkpoints, events, job_labels, job_secrets, jobs


@dataclass(frozen=True, kw_only=True)
class Looker:
    """A worker that looks for a job."""

    worker_id: str
    kinds: tuple[Kind, ...]
    num_devices: int
    labels: tuple[str, ...]
    storage_id: str | None


def suitable(looker: Looker) -> ColumnElement[bool]:
    """Queued, and what the job requires the worker has."""
    label = job_labels.c.label
    lacking = select(1).where(job_labels.c.job_id == jobs.c.id, label.not_in(looker.labels))
    return and_(
        jobs.c.status == Status.QUEUED,
        jobs.c.kind.in_(looker.kinds),
        jobs.c.num_devices <= looker.num_devices,
        or_(jobs.c.storage_id.is_(None), jobs.c.storage_id == looker.storage_id),
        ~exists(lacking),
    )


def next_job(looker: Looker, passed: Sequence[str] = ()) -> Select[Any]:
    """`passed`: jobs that wait for more nodes."""
    project, owner = _held_by(jobs.c.project_id), _held_by(jobs.c.project_id, jobs.c.owner)
    return (
        select(*JOB_COLUMNS)
        .outerjoin(project, project.c.project_id == jobs.c.project_id)
        .outerjoin(owner, and_(owner.c.project_id == jobs.c.project_id, owner.c.owner == jobs.c.owner))
        .where(suitable(looker), jobs.c.id.not_in(passed))
        .order_by(jobs.c.priority.desc(), func.coalesce(project.c.num_held, 0), func.coalesce(owner.c.num_held, 0))
        .order_by(jobs.c.created_at, jobs.c.id)
        .limit(1)
        .with_for_update(of=jobs, skip_locked=True)
    )


def _held_by(*columns: Any) -> Any:
    count = func.count().label("num_held")
    return select(*columns, count).where(jobs.c.status.in_(HELD)).group_by(*columns).subquery()


def claim(connection: Connection, looker: Looker) -> Claim | None:
    if members.is_reserved(connection, looker.worker_id):
        return None
    job, others = _pick(connection, looker)
    if job is None:
        return None
    attempt = job.attempt + 1
    _begin_attempt(connection, job.id, attempt, looker)
    members.enter(connection, job.id, attempt, looker.worker_id, others)
    if job.attempt:
        supersede(connection, job.id)
    job = move(
        connection,
        job,
        Status.RUNNING,
        f"Job is running on {looker.worker_id}, attempt {attempt}",
        data={"worker_id": looker.worker_id, "attempt": attempt},
        attempt=attempt,
        wanted=Wanted.RUN,
        worker_id=looker.worker_id,
        started_at=job.started_at or now(),
        phase=None,
    )
    return Claim(job=job, attempt=attempt, secrets=secrets_of(connection, job.id))


def _pick(connection: Connection, looker: Looker) -> tuple[Job | None, Sequence[Worker]]:
    """The next job for which there are enough nodes, and who they are; the others wait and block nobody."""
    passed: list[str] = []
    while row := connection.execute(next_job(looker, passed)).mappings().first():
        job = record(Job, row)
        others = members.find_others(connection, job, looker.worker_id, looker.storage_id)
        if others is not None:
            return job, others
        passed.append(job.id)
    return None, ()


def _begin_attempt(connection: Connection, job_id: str, attempt: int, looker: Looker) -> None:
    row = {"job_id": job_id, "number": attempt, "beat": 0, "events_offset": 0, "status": "running"}
    who = {"worker_id": looker.worker_id, "storage_id": looker.storage_id, "started_at": now()}
    connection.execute(insert(attempts).values({**row, **who}))


def supersede(connection: Connection, job_id: str) -> None:
    """Mark the metrics of steps that the new attempt does again: all past the newest checkpoint."""
    resumable = checkpoints.c.job_id == job_id, checkpoints.c.uri != "", checkpoints.c.is_damaged.is_(False)
    newest = connection.execute(select(func.max(checkpoints.c.step)).where(*resumable)).scalar()
    done_again = [events.c.job_id == job_id, events.c.type == "metrics", events.c.superseded.is_(False)]
    if newest is not None:
        done_again.append(events.c.step > newest)
    connection.execute(update(events).where(*done_again).values(superseded=True))


def secrets_of(connection: Connection, job_id: str) -> dict[str, str]:
    query = select(job_secrets.c.name, job_secrets.c.value).where(job_secrets.c.job_id == job_id)
    return {name: value for name, value in connection.execute(query)}


def anything_for(connection: Connection, looker: Looker) -> bool:
    """A cheap look without a lock, so that idle workers do not queue up for SQLite's one writer."""
    return connection.execute(select(1).where(suitable(looker)).limit(1)).first() is not None


def looker(
    worker_id: str, kinds: Iterable[Kind | str], num_devices: int, labels: Iterable[str], storage_id: str | None
) -> Looker:
    return Looker(
        worker_id=worker_id,
        kinds=tuple(Kind(kind) for kind in kinds),
        num_devices=num_devices,
        labels=tuple(labels),
        storage_id=storage_id,
    )
