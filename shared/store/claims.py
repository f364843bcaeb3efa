"""Which queued job a worker gets, and the new attempt that this begins.

Highest priority first; then who has had least, by project and then by owner (shares.py); then the oldest. Only what the
worker's free devices, labels and storage meet; what a large job waits for may be kept for it (backfill.py). PostgreSQL
locks the row it picks and skips those that others are picking; on SQLite the whole transaction has the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Select,
    Text,
    and_,
    case,
    column,
    exists,
    false,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
    values,
)

from shared import requirements
from shared.job import Job, Kind, Status, Wanted
from shared.lineup import Balance
from shared.records import Claim, Worker
from shared.requirements import CPU, CUDA, Device
from shared.store import members, shares
from shared.store.backfill import Offer, offer
from shared.store.columns import now, record
from shared.store.moves import JOB_COLUMNS, move, running_on
from shared.store.tables import attempts, checkpoints, events, job_labels, job_secrets, jobs

#: Said as a constant, so that SQLite sees that the index of waiting jobs will do.
WAITS = jobs.c.status == literal_column(f"'{Status.QUEUED}'", Text)


@dataclass(frozen=True, kw_only=True)
class Looker:
    """A worker that looks for a job."""

    worker_id: str
    kinds: tuple[Kind, ...]
    #: The devices that it could take now, and all that it has.
    free: tuple[Device, ...]
    machine: tuple[Device, ...]
    labels: tuple[str, ...]
    storage_id: str | None
    #: None: nothing is known of other workers beside it.
    host: str | None = None


def suitable(looker: Looker, devices: Sequence[Device]) -> ColumnElement[bool]:
    """Queued, and what the job requires the worker has, if these are its devices."""
    label = job_labels.c.label
    lacking = select(1).where(job_labels.c.job_id == jobs.c.id, label.not_in(looker.labels))
    return and_(
        WAITS,
        jobs.c.kind.in_(looker.kinds),
        or_(*fitting(devices)),
        or_(jobs.c.storage_id.is_(None), jobs.c.storage_id == looker.storage_id),
        ~exists(lacking),
    )


def fitting(devices: Sequence[Device]) -> Iterator[ColumnElement[bool]]:
    """What requirements.are_met says, for the claim's WHERE: one condition for each lot of equal cards."""
    yield jobs.c.num_devices == 0
    gpus = [device for device in devices if device.is_gpu]
    count = requirements.count(devices)
    yield and_(jobs.c.accelerator.is_(None), jobs.c.num_devices <= count)
    yield and_(jobs.c.accelerator == CPU, jobs.c.num_devices <= count if count and not gpus else false())
    least = func.coalesce(jobs.c.min_gpu_memory_gib, 0.0)
    for names, memory_gib, num in _lots(gpus):
        kind = or_(jobs.c.gpu_kind.is_(None) if None in names else false(), jobs.c.gpu_kind.in_(names - {None}))
        yield and_(jobs.c.accelerator == CUDA, kind, least <= memory_gib, jobs.c.num_devices <= num)


def _lots(gpus: Sequence[Device]) -> Iterator[tuple[frozenset[str | None], float, int]]:
    """(kinds, memory, number): so many cards are of each of these kinds and have so much memory or more."""
    memories: dict[str | None, list[float]] = {None: [gpu.size_gib for gpu in gpus]}
    for gpu in gpus:
        for key in requirements.keys(gpu):
            memories.setdefault(key, []).append(gpu.size_gib)
    alike: dict[tuple[float, ...], set[str | None]] = {}
    for name, found in memories.items():
        alike.setdefault(tuple(sorted(found)), set()).add(name)
    for sizes, names in alike.items():
        for memory_gib in Counter(sizes):
            yield frozenset(names), memory_gib, sum(other >= memory_gib for other in sizes)


def in_order(query: Select[Any], balance: Balance, reserved: str | None = None) -> Select[Any]:
    """`query` on jobs, the next first; `reserved` comes before others of its priority."""
    query = query.order_by(jobs.c.priority.desc())
    if reserved is not None:
        query = query.order_by(case((jobs.c.id == reserved, 0), else_=1))
    if balance.used:
        projects = _table("project_scores", (list(row) for row in balance.of_projects().items()))
        owners = _table("owner_scores", ([*who, balance.of_owner(who)] for who in balance.used))
        of_owner = and_(owners.c.project_id == jobs.c.project_id, owners.c.owner == jobs.c.owner)
        query = query.outerjoin(projects, projects.c.project_id == jobs.c.project_id).outerjoin(owners, of_owner)
        query = query.order_by(func.coalesce(projects.c.score, 0.0), func.coalesce(owners.c.score, 0.0))
    return query.order_by(jobs.c.created_at, jobs.c.id)


def _table(name: str, rows: Iterable[Sequence[Any]]) -> Any:
    data = [tuple(row) for row in rows]
    columns = [column("project_id", Text), column("owner", Text), column("score", Float)]
    columns = columns if len(data[0]) == 3 else [columns[0], columns[2]]
    return values(*columns, name=f"{name}_rows").data(data).cte(name)


def claim(connection: Connection, looker: Looker) -> Claim | None:
    if members.is_reserved(connection, looker.worker_id):
        return None
    job, others = _pick(connection, looker)
    if job is None:
        return None
    attempt = job.attempt + 1
    _begin_attempt(connection, job, attempt, looker)
    members.enter(connection, job.id, attempt, looker.worker_id, others)
    if job.attempt:
        supersede(connection, job.id)
    job = move(
        connection,
        job,
        Status.RUNNING,
        running_on(looker.worker_id, attempt),
        data={"worker_id": looker.worker_id, "attempt": attempt},
        attempt=attempt,
        # A cancelled job is taken once more where something of it is to be kept.
        wanted=Wanted.CANCEL if job.wanted == Wanted.CANCEL else Wanted.RUN,
        worker_id=looker.worker_id,
        started_at=job.started_at or now(),
        phase=None,
    )
    return Claim(job=job, attempt=attempt, secrets=secrets_of(connection, job.id))


def _pick(connection: Connection, looker: Looker) -> tuple[Job | None, Sequence[Worker]]:
    """The next job for which there are enough nodes, and who they are; the others wait, and block nobody before they
    have waited long."""
    balance = shares.balance(connection)
    offered = _offer(connection, looker, balance)
    passed: list[str] = []
    while job_id := connection.execute(_next(looker, offered, balance, passed)).scalar():
        # By its id, in a second query: sorting the queue with every job's spec along takes five times as long.
        job = record(Job, connection.execute(select(*JOB_COLUMNS).where(jobs.c.id == job_id)).mappings().one())
        others = members.find_others(connection, job, looker.worker_id, looker.storage_id)
        if others is not None:
            return job, others
        if members.is_due(connection, job, looker.worker_id, looker.storage_id):
            return None, ()
        passed.append(job.id)
    return None, ()


def _offer(connection: Connection, looker: Looker, balance: Balance) -> Offer:
    def first() -> Select[Any]:
        columns = (
            jobs.c.id,
            jobs.c.priority,
            jobs.c.num_devices,
            jobs.c.requires,
            jobs.c.created_at,
            jobs.c.reserved_host,
        )
        return in_order(select(*columns).where(suitable(looker, looker.machine)), balance).limit(1)

    return offer(connection, looker.worker_id, looker.host, looker.free, looker.machine, first)


def _next(looker: Looker, offered: Offer, balance: Balance, passed: Sequence[str]) -> Select[Any]:
    """`passed`: jobs that wait for more nodes."""
    can = suitable(looker, offered.devices)
    reserving = offered.reserving
    if reserving is not None:
        goes_first = or_(jobs.c.id == reserving.id, jobs.c.priority > reserving.priority)
        can = or_(can, and_(goes_first, suitable(looker, offered.kept)))
    query = in_order(
        select(jobs.c.id).where(can, jobs.c.id.not_in(passed)), balance, reserving.id if reserving else None
    )
    return query.limit(1).with_for_update(of=jobs, skip_locked=True)


def _begin_attempt(connection: Connection, job: Job, attempt: int, looker: Looker) -> None:
    row = {"job_id": job.id, "number": attempt, "beat": 0, "events_offset": 0, "status": "running"}
    row |= {"adjustments": job.adjustments}
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
    return connection.execute(select(1).where(suitable(looker, looker.free)).limit(1)).first() is not None
