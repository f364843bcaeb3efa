"""The nodes of an attempt that several workers share: reserved all at once or not at all, fenced and leased one by one.

The claiming worker leads (node 0). Its claim locks its own row of `workers`, and so does every other claim: who is
being reserved claims nothing, who is claiming is passed over. Reservations go one after another, so that two leaders
never take half each. Whether a worker is idle is asked after its row is locked: an answer from before may be outdated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Select, delete, exists, func, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from shared import requirements
from shared.errors import LeaseLost
from shared.job import HELD, Job, Kind
from shared.member import HeldMember, Member, Standing
from shared.records import Claim, NewEvent, Worker
from shared.store.backfill import PATIENCE_SECONDS
from shared.store.columns import record
from shared.store.engine import Database, ledger_time
from shared.store.moves import JOB_COLUMNS, hold, save
from shared.store.tables import attempts, events, job_labels, job_secrets, jobs, members, workers

#: A worker that did not beat for this long is not reserved. A wrong clock costs a reservation, no more: who does not
#: come is struck off (`lose`).
FRESH_SECONDS = 30.0
#: Key of PostgreSQL's advisory lock under which reservations go one after another; any number of our own.
RESERVING = 7_203_331
#: A node that takes part: reserved (not here yet), joined, ready (devices held), running, leaving (it must end).
LIVE = ("reserved", "joined", "ready", "running", "leaving")
#: Of node 0: leading until all are ready, then started; ending: everybody stops.
LEADING, STARTED, ENDING = "leading", "started", "ending"


class Members:
    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, job_id: str, attempt: int) -> list[Member]:
        """All nodes of an attempt by rank; none for one that a single worker makes."""
        query = select(members).where(members.c.job_id == job_id, members.c.attempt == attempt)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(members.c.node_rank)).mappings()
            return [record(Member, row) for row in rows]

    def reservation(self, worker_id: str) -> tuple[Claim, Member] | None:
        """The attempt that this worker is reserved for, with its own place in it."""
        query = select(members).where(_is_live(), members.c.worker_id == worker_id)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
            if row is None:
                return None
            found = record(Member, row)
            job = connection.execute(select(*JOB_COLUMNS).where(jobs.c.id == found.job_id)).mappings().one()
            secrets = connection.execute(
                select(job_secrets.c.name, job_secrets.c.value).where(job_secrets.c.job_id == found.job_id)
            )
            given = {name: value for name, value in secrets}
            return Claim(job=record(Job, job), attempt=found.attempt, secrets=given), found

    def renew(self, member: Member, status: str) -> Standing:
        """One beat of a node, saying how far it is. Raises: LeaseLost when the attempt, or its part in it, is over"""
        with self._database.write() as connection:
            beat = update(members).where(*_key(member), _is_live())
            if not connection.execute(beat.values(beat=members.c.beat + 1, status=status)).rowcount:
                raise LeaseLost(f"Node {member.node_rank} has no part in attempt {member.attempt} of {member.job_id}")
            query = select(attempts.c.beat, members.c.status, members.c.address, members.c.port).join(
                members, (members.c.job_id == attempts.c.job_id) & (members.c.attempt == attempts.c.number)
            )
            leads = (members.c.job_id == member.job_id, members.c.attempt == member.attempt, members.c.node_rank == 0)
            return Standing(*connection.execute(query.where(*leads)).one())

    def leave(self, member: Member, status: str, error: Mapping[str, Any] | None = None) -> None:
        """A node's last word: "ended", "failed" with its error, or "lost". Said too late, it changes nothing."""
        with self._database.write() as connection:
            last = update(members).where(*_key(member), members.c.status.in_(LIVE))
            connection.execute(last.values(status=status, error=dict(error) if error else None))

    def lead(self, job_id: str, attempt: int, status: str, port: int | None = None, address: str | None = None) -> None:
        """What node 0 wants of the others. Raises: LeaseLost"""
        given = {"port": port, "address": address}
        changes = {"status": status, **{name: value for name, value in given.items() if value is not None}}
        with self._database.write() as connection:
            hold(connection, job_id, attempt)
            leads = (members.c.job_id == job_id, members.c.attempt == attempt, members.c.node_rank == 0)
            connection.execute(update(members).where(*leads).values(changes))

    def held(self) -> list[HeldMember]:
        """Every node beside the leaders' whose beat must move, of all projects."""
        columns = (members.c.job_id, members.c.attempt, members.c.node_rank, members.c.beat, members.c.worker_id)
        with self._database.read() as connection:
            query = select(*columns).where(_is_live())
            return [HeldMember(*row) for row in connection.execute(query)]

    def lose(self, held: HeldMember, reason: str) -> None:
        """Strike off a node whose beat still is that. Raises: LeaseLost when it has moved on since

        Its worker is forgotten until it beats again, so that nobody reserves it once more.
        """
        with self._database.write() as connection:
            who = (members.c.job_id == held.job_id, members.c.attempt == held.attempt)
            silent = (members.c.node_rank == held.node_rank, members.c.beat == held.beat, members.c.status.in_(LIVE))
            error = {"code": "worker_lost", "message": reason, "field": None}
            if not connection.execute(update(members).where(*who, *silent).values(status="lost", error=error)).rowcount:
                raise LeaseLost(f"Node {held.node_rank} of {held.job_id} is alive: its beat has moved on")
            connection.execute(delete(workers).where(workers.c.id == held.worker_id))


def is_reserved(connection: Connection, worker_id: str) -> bool:
    """Whether another worker has reserved this one; its row stays locked, so that none can from here on."""
    connection.execute(select(workers.c.id).where(workers.c.id == worker_id).with_for_update())
    reserved = _is_live() & (members.c.worker_id == worker_id)
    return bool(connection.execute(select(exists().where(reserved))).scalar_one())


def find_others(connection: Connection, job: Job, leader_id: str, storage_id: str | None) -> list[Worker] | None:
    """Idle workers that do for the nodes beside the leader's, now locked; None when there are too few."""
    wanted = num_nodes(job) - 1
    if not wanted:
        return []
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(RESERVING)))
    query = _others(connection, leader_id, storage_id).with_for_update(skip_locked=True)
    found = [record(Worker, row) for row in connection.execute(query).mappings()]
    busy, labels = _busy(connection), _labels(connection, job)
    able = [worker for worker in found if worker.id not in busy and _does(worker, job, labels)]
    if len(able) >= wanted:
        return able[:wanted]
    _say_what_lacks(connection, job, 1 + len(able))
    return None


def _others(connection: Connection, leader_id: str, storage_id: str | None) -> Select[Any]:
    """Workers that were heard of lately and see the leader's files."""
    fresh = (workers.c.id != leader_id, workers.c.seen_at > ledger_time(connection) - timedelta(seconds=FRESH_SECONDS))
    return select(workers).where(*fresh, workers.c.storage_id == storage_id).order_by(workers.c.id)


def is_due(connection: Connection, job: Job, leader_id: str, storage_id: str | None) -> bool:
    """Whether this idle worker waits for the job's other nodes, instead of taking another job.

    As backfill.py keeps devices of one host: a job of several nodes would else find one of them busy for as long as
    small jobs keep coming. Never more workers wait than the job has nodes, and only where there are enough of them,
    busy ones counted.
    """
    if ledger_time(connection) - job.created_at < timedelta(seconds=PATIENCE_SECONDS):
        return False
    rows = connection.execute(_others(connection, leader_id, storage_id)).mappings()
    labels = _labels(connection, job)
    able = [worker for worker in (record(Worker, row) for row in rows) if _does(worker, job, labels, idle=True)]
    return len(able) >= num_nodes(job) - 1


def num_nodes(job: Job) -> int:
    return int(job.requires.get("num_nodes") or 1)


def enter(connection: Connection, job_id: str, attempt: int, leader_id: str, others: Iterable[Worker]) -> None:
    """The nodes of a new attempt. Those that see each other at one address are one machine: loopback will do."""
    leads = connection.execute(select(workers.c.address).where(workers.c.id == leader_id)).scalar()
    ranks = [(leader_id, leads or "", LEADING), *((worker.id, worker.address or "", "reserved") for worker in others)]
    rows = [
        {"job_id": job_id, "attempt": attempt, "node_rank": rank, "worker_id": who, "address": address, "beat": 0,
         "status": status, "port": None, "error": None}
        for rank, (who, address, status) in enumerate(ranks)
    ]  # fmt: skip
    if len(rows) > 1:
        connection.execute(insert(members), rows)


def _does(worker: Worker, job: Job, labels: set[str], *, idle: bool = False) -> bool:
    """With the devices that it has free now; `idle`: with those that jobs will give back, too."""
    passing = tuple(Kind) if idle else ()
    held = {device.id: _holder(worker, device.id) for device in requirements.of_worker(worker)}
    free = [
        device
        for device in requirements.of_worker(worker)
        if not held[device.id] or held[device.id].get("kind") in passing
    ]
    return job.kind in worker.kinds and requirements.are_met(job.requires, free) and labels <= set(worker.labels)


def _holder(worker: Worker, device_id: str) -> Any:
    return next((one.get("held_by") for one in worker.machine.get("devices", ()) if one["id"] == device_id), None)


def _labels(connection: Connection, job: Job) -> set[str]:
    return set(connection.execute(select(job_labels.c.label).where(job_labels.c.job_id == job.id)).scalars())


def _busy(connection: Connection) -> set[str]:
    """Workers that have a job, or a part in one."""
    holding = select(jobs.c.worker_id).where(jobs.c.status.in_(HELD))
    taking_part = select(members.c.worker_id).where(_is_live())
    return {who for query in (holding, taking_part) for who in connection.execute(query).scalars() if who}


def _say_what_lacks(connection: Connection, job: Job, there: int) -> None:
    """In the job's events, once for each number of workers that are there."""
    count, needed = num_nodes(job), requirements.described(job.requires)
    message = f"Waiting for {count} idle workers with {needed} each: {there} there"
    newest = select(events.c.message).where(events.c.job_id == job.id, events.c.number == job.last_event)
    if connection.execute(newest).scalar() != message:
        data = {"num_nodes": count, "num_there": there}
        save(connection, job, job, [NewEvent(type="message", message=message, data=data)])


def _is_live() -> ColumnElement[bool]:
    """Taking part in the attempt that has its job now."""
    current = select(1).where(jobs.c.id == members.c.job_id, jobs.c.attempt == members.c.attempt)
    return members.c.status.in_(LIVE) & exists(current.where(jobs.c.status.in_(HELD)))


def _key(member: Member) -> tuple[Any, ...]:
    return (
        members.c.job_id == member.job_id,
        members.c.attempt == member.attempt,
        members.c.node_rank == member.node_rank,
        members.c.worker_id == member.worker_id,
    )
