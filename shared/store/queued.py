"""The queue as a whole, read for people: what waits, what runs and how long that may take. Changes nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Text, select, type_coerce

from shared.job import HELD, Kind, Status
from shared.lineup import Need, Running, Snapshot, Waiting
from shared.records import Worker
from shared.store.claims import WAITS
from shared.store.columns import now
from shared.store.engine import Database
from shared.store.shares import balance
from shared.store.tables import attempts, events, job_labels, jobs

#: The last jobs of a kind whose durations tell how long the next takes.
NUM_PAST = 20
#: Columns of a waiting job before those of what it needs.
NUM_OWN = 5
#: What a child may call how far it is, and how far it goes.
DONE, TOTAL = ("step", "done"), ("total_steps", "total")


class Queued:
    def __init__(self, database: Database) -> None:
        self._database = database

    def snapshot(self, workers: Iterable[Worker]) -> Snapshot:
        with self._database.read() as connection:
            usual = _usual_seconds(connection)
            return Snapshot(
                waiting=_waiting(connection),
                running=_running(connection, usual),
                balance=balance(connection),
                workers=tuple(workers),
                usual_seconds=usual,
            )


def _waiting(connection: Connection) -> list[Waiting]:
    of_job: dict[str, tuple[str, ...]] = {}
    labelled = select(job_labels.c.job_id, job_labels.c.label).join(jobs, jobs.c.id == job_labels.c.job_id)
    for job_id, label in connection.execute(labelled.where(WAITS).order_by(job_labels.c.label)):
        of_job[job_id] = (*of_job.get(job_id, ()), label)
    columns = (
        *(jobs.c.id, jobs.c.project_id, jobs.c.owner, jobs.c.priority, jobs.c.reserved_host),  # NUM_OWN of them
        type_coerce(jobs.c.kind, Text),  # as it is: turning twenty thousand into words of ours takes its time
        *(jobs.c.num_devices, jobs.c.storage_id, jobs.c.gpu_kind, jobs.c.min_gpu_memory_gib, jobs.c.accelerator),
    )
    query = select(*columns).where(WAITS, jobs.c.kind.in_(list(Kind))).order_by(jobs.c.created_at, jobs.c.id)
    needs: dict[tuple[Any, ...], Need] = {}
    found = []
    for row in connection.execute(query).all():
        asks = (*row[NUM_OWN:], of_job[row[0]]) if row[0] in of_job else row[NUM_OWN:]
        need = needs.get(asks)
        if need is None:
            needs[asks] = need = Need(*asks)
        found.append(Waiting(row[0], row[1], row[2], row[3], need, row[4]))
    return found


def _usual_seconds(connection: Connection) -> dict[str, float]:
    usual = {}
    for kind in Kind:
        done = select(jobs.c.started_at, jobs.c.finished_at).where(
            jobs.c.kind == kind, jobs.c.status == Status.SUCCEEDED
        )
        rows = connection.execute(done.order_by(jobs.c.finished_at.desc()).limit(NUM_PAST))
        took = [(finished - started).total_seconds() for started, finished in rows if started and finished]
        if took:
            usual[kind.value] = max(0.0, statistics.median(took))
    return usual


def _running(connection: Connection, usual: dict[str, float]) -> list[Running]:
    current = (attempts.c.job_id == jobs.c.id) & (attempts.c.number == jobs.c.attempt)
    columns = (
        *(jobs.c.id, jobs.c.project_id, jobs.c.kind, jobs.c.worker_id, jobs.c.attempt, jobs.c.progress),
        attempts.c.started_at,
    )
    rows = connection.execute(select(*columns).join(attempts, current).where(jobs.c.status.in_(HELD))).all()
    moment, found = now(), []
    for row in rows:
        left = _seconds_left(connection, row, moment)
        if left is None and row.kind in usual:
            # A job that takes longer than usual ends at a time that nobody knows.
            rest = usual[row.kind] - (moment - row.started_at).total_seconds()
            left = rest if rest > 0 else None
        named = {"id": row.id, "project_id": row.project_id, "kind": row.kind.value, "worker_id": row.worker_id}
        found.append(Running(**named, seconds_left=left))
    return found


def _seconds_left(connection: Connection, job: Any, moment: datetime) -> float | None:
    """From how fast this attempt went on so far."""
    done, total = (
        next((job.progress[name] for name in names if name in job.progress), None) for names in (DONE, TOTAL)
    )
    if not isinstance(done, int | float) or not isinstance(total, int | float) or not 0 < done <= total:
        return None
    of_attempt = (events.c.job_id == job.id, events.c.attempt == job.attempt, events.c.step.is_not(None))
    query = select(events.c.step, events.c.created_at).where(*of_attempt)
    first = connection.execute(query.order_by(events.c.number).limit(1)).first()
    last = connection.execute(query.order_by(events.c.number.desc()).limit(1)).first()
    if first is None or last is None or last.step <= first.step:
        return None
    per_step = float((last.created_at - first.created_at).total_seconds() / (last.step - first.step))
    rest: float = (total - last.step) * per_step - (moment - last.created_at).total_seconds()
    return max(0.0, rest)
