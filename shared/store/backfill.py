"""No large job waits for ever behind small ones, though these use what it leaves idle.

A job gets all of its devices or none, and only when its training begins (shared/devices.py): one that needs four would
find one of them busy for as long as small jobs keep coming. So, whenever a worker looks for a job:

- Devices of what this host's other workers have claimed and not taken yet are gone already.
- The job that is first in the order, would fit the idle host and does not fit what is free, keeps the host once it has
  waited PATIENCE_SECONDS: `jobs.reserved_host`. One host for a job, and one job for a host. From then on jobs of no
  higher priority get there only what it leaves over, and it comes first as soon as it fits.

Until then smaller jobs go past it. To let only those past that end in time would need to know how long jobs run; the
guess (gateway's estimate) is good enough to be told, not to be relied upon. Replicas of deployments heed none of this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, exists, select, update

from shared import requirements
from shared.job import HELD, Status
from shared.requirements import Device
from shared.store.columns import now
from shared.store.tables import attempts, jobs, workers

PATIENCE_SECONDS = 600.0


class Reserving(NamedTuple):
    """The job that a host is kept for."""

    id: str
    priority: int
    num_devices: int


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a worker may give away now."""

    #: To anybody.
    devices: tuple[Device, ...]
    #: To the job that the host is kept for, and to those of higher priority.
    kept: tuple[Device, ...]
    reserving: Reserving | None = None


def offer(
    connection: Connection,
    worker_id: str,
    host: str | None,
    free: tuple[Device, ...],
    machine: tuple[Device, ...],
    first: Callable[[], Select[Any]],
) -> Offer:
    """`first` asks for the job that is first in the order among those that the idle machine could run."""
    if host is None or not any(device.is_gpu for device in machine):
        return Offer(devices=free, kept=free)
    left = free[: max(0, len(free) - _num_pending(connection, worker_id, host))]
    reserving = _reserving(connection, host)
    if reserving is None and len(left) < len(machine):
        reserving = _reserve(connection, host, left, first())
    spare = left if reserving is None else left[: max(0, len(left) - reserving.num_devices)]
    return Offer(devices=spare, kept=left, reserving=reserving)


def _num_pending(connection: Connection, worker_id: str, host: str) -> int:
    """Devices of attempts on this host that have not taken theirs."""
    query = (
        select(jobs.c.num_devices)
        .join(attempts, (attempts.c.job_id == jobs.c.id) & (attempts.c.number == jobs.c.attempt))
        .join(workers, workers.c.id == attempts.c.worker_id)
        .where(jobs.c.status.in_(HELD), attempts.c.devices.is_(None))
        .where(workers.c.host == host, workers.c.id != worker_id)
    )
    return sum(connection.execute(query).scalars())


def _reserving(connection: Connection, host: str) -> Reserving | None:
    query = select(jobs.c.id, jobs.c.priority, jobs.c.num_devices, jobs.c.kind)
    row = connection.execute(query.where(jobs.c.reserved_host == host, jobs.c.status == Status.QUEUED)).first()
    if row is None:
        return None
    kinds = connection.execute(select(workers.c.kinds).where(workers.c.host == host)).scalars()
    if any(row.kind.value in of_worker for of_worker in kinds):
        return Reserving(row.id, row.priority, row.num_devices)
    connection.execute(update(jobs).where(jobs.c.id == row.id).values(reserved_host=None))
    return None


def _is_there(connection: Connection, host: str | None) -> bool:
    """Whether any worker reports itself from there; the sweep forgets those that are gone."""
    there = select(exists().where(workers.c.host == host))
    return host is not None and bool(connection.execute(there).scalar_one())


def _reserve(connection: Connection, host: str, left: tuple[Device, ...], first: Select[Any]) -> Reserving | None:
    row = connection.execute(first).mappings().first()
    if row is None or now() - row["created_at"] < timedelta(seconds=PATIENCE_SECONDS):
        return None
    if requirements.are_met(row["requires"], left) or _is_there(connection, row["reserved_host"]):
        return None
    connection.execute(update(jobs).where(jobs.c.id == row["id"]).values(reserved_host=host))
    return Reserving(row["id"], row["priority"], row["num_devices"])
