"""Replicas: vLLM processes, claimed, leased and fenced like jobs by inference workers; read by gateways to route.

A worker has a replica while `worker_id` says so, whatever its status: one whose start failed stays with its worker,
which tries again. A replica whose holders were lost, or gave up, MAX_FAILURES times in a row without it getting ready
is left `failed` until its deployment's spec is changed. What changes a replica's status locks its deployment first
(fleet_moves.py), tells an event, and starts and stops what follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, select, update

from shared.errors import LeaseLost
from shared.records import HeldReplica, NewEvent, Replica
from shared.store.columns import now, record
from shared.store.engine import Database
from shared.store.fleet_moves import NOBODYS, lock, note, note_all, replicas_query, settle
from shared.store.standing import guests
from shared.store.tables import deployments, models, replicas
from shared.tongues import Text

MAX_FAILURES = 3
#: Of a failed server's log, for people.
MAX_LOG_CHARACTERS = 20_000


class Replicas:
    def __init__(self, database: Database) -> None:
        self._database = database

    def claim_next(
        self,
        worker_id: str,
        storage_id: str | None = None,
        left_out: Collection[str] = (),
        fits: Callable[[Replica], bool] = lambda replica: True,
    ) -> Replica | None:
        """The oldest replica that nobody holds, now `starting` under a new attempt; None when there is none. Models of
        the formats `left_out`, and replicas that do not fit this machine now, are left to other workers."""
        query = replicas_query().where(*_waits(), *([_is_of_no(left_out)] if left_out else []))
        query = query.order_by(replicas.c.num_failures, replicas.c.created_at, replicas.c.ordinal)
        with self._database.read() as connection:
            waiting = [record(Replica, row) for row in connection.execute(query).mappings()]
        claims = (self._claim(one, worker_id, storage_id) for one in waiting if fits(one))
        return next((claimed for claimed in claims if claimed is not None), None)

    def _claim(self, waiting: Replica, worker_id: str, storage_id: str | None) -> Replica | None:
        """None: another worker was faster, or nobody wants it any more."""
        with self._database.write() as connection:
            lock(connection, waiting.deployment_id)
            query = replicas_query().where(replicas.c.id == waiting.id, *_waits())
            row = connection.execute(query.with_for_update(of=replicas)).mappings().first()
            if row is None:
                return None
            mine = {"worker_id": worker_id, "storage_id": storage_id, "attempt": row["attempt"] + 1, "beat": 0}
            values = {**mine, "status": "starting", "log_tail": None}
            connection.execute(update(replicas).where(replicas.c.id == waiting.id).values(values))
            text = "Replica {ordinal} is starting on {worker}, attempt {attempt}"
            told = Text(text, ordinal=waiting.ordinal, worker=worker_id, attempt=mine["attempt"])
            note(connection, waiting.deployment_id, "starting", told, replica_id=waiting.id, worker_id=worker_id)
            return _get(connection, waiting.id)

    def renew(
        self,
        replica_id: str,
        attempt: int,
        *,
        status: str | None = None,
        url: str | None = None,
        load: float | None = None,
        error: str | None = None,
        log_tail: str | None = None,
        api_key: str | None = None,
        served_name: str | None = None,
        adapters: Sequence[str] | None = None,
        adapter_errors: Mapping[str, str] | None = None,
        max_lora_rank: int | None = None,
        events: Sequence[NewEvent] = (),
    ) -> str:
        """One beat, with what changed and what happened. Returns what is wanted: "running" or "stopped". Raises:
        LeaseLost"""
        told: dict[str, Any] = {"status": status, "url": url, "load": load, "error": error, "api_key": api_key}
        told |= {"log_tail": _tail(log_tail), "served_name": served_name, "max_lora_rank": max_lora_rank}
        told |= {"adapters": adapters, "adapter_errors": adapter_errors}
        values = {name: value for name, value in told.items() if value is not None}
        with self._database.write() as connection:
            deployment_id = _locked_for_news(connection, replica_id, status, bool(events))
            wanted = _hold(connection, replica_id, attempt)
            values |= _of_status(status, error, is_news=deployment_id is not None)
            beat = replicas.c.beat + 1
            connection.execute(update(replicas).where(replicas.c.id == replica_id).values(beat=beat, **values))
            if deployment_id is not None:
                note_all(connection, deployment_id, events, replica_id)
                _tell_guests(connection, deployment_id, events, replica_id)
                settle(connection, deployment_id)
                wanted = _hold(connection, replica_id, attempt)
            return wanted

    def release(
        self, replica_id: str, attempt: int, *, error: str | None = None, log_tail: str | None = None
    ) -> Replica:
        """The process is gone: stopped when that was wanted, else to be started again. Raises: LeaseLost

        `error` says that the worker gives up on it, and counts as a failure.
        """
        with self._database.write() as connection:
            deployment_id = _locked_for_news(connection, replica_id, None, True)
            _hold(connection, replica_id, attempt)
            return _let_go(connection, str(deployment_id), replica_id, error, _tail(log_tail))

    def held(self) -> list[HeldReplica]:
        columns = replicas.c.id, replicas.c.attempt, replicas.c.beat, replicas.c.worker_id
        with self._database.read() as connection:
            rows = connection.execute(select(*columns).where(replicas.c.worker_id.is_not(None)))
            return [HeldReplica(*row) for row in rows]

    def reclaim(self, replica_id: str, attempt: int, beat: int, reason: str) -> Replica:
        """Take it from a holder whose beat still is `beat`. Raises: LeaseLost when it has moved on since"""
        with self._database.write() as connection:
            deployment_id = _locked_for_news(connection, replica_id, None, True)
            _hold(connection, replica_id, attempt)
            held = _get(connection, replica_id)
            if held.beat != beat:
                raise LeaseLost(f"The holder of {replica_id} is alive: its beat has moved on from {beat}")
            told = Text("Replica {ordinal} is taken from its worker: {reason}", ordinal=held.ordinal, reason=reason)
            about: dict[str, Any] = {"replica_id": replica_id, "worker_id": held.worker_id, "level": "warning"}
            note(connection, str(deployment_id), "lost", told, **about)
            return _let_go(connection, str(deployment_id), replica_id, reason, None)

    def list(self, project_id: str | None = None, deployment_id: str | None = None) -> list[Replica]:
        """Of one project, or of all (for metrics); of one deployment, or of all."""
        query = replicas_query().order_by(replicas.c.deployment_id, replicas.c.ordinal)
        query = query if project_id is None else query.where(deployments.c.project_id == project_id)
        query = query if deployment_id is None else query.where(replicas.c.deployment_id == deployment_id)
        with self._database.read() as connection:
            return [record(Replica, row) for row in connection.execute(query).mappings()]


def _waits() -> list[ColumnElement[bool]]:
    return [replicas.c.status == "pending", replicas.c.wanted == "running", replicas.c.worker_id.is_(None)]


def _is_of_no(formats: Collection[str]) -> ColumnElement[bool]:
    of = models.c.project_id == deployments.c.project_id, models.c.name == replicas.c.model_name
    return ~exists(select(models.c.id).where(*of, models.c.format.in_(formats)))


def _get(connection: Connection, replica_id: str) -> Replica:
    row = connection.execute(replicas_query().where(replicas.c.id == replica_id)).mappings().one()
    return record(Replica, row)


def _locked_for_news(connection: Connection, replica_id: str, status: str | None, has_events: bool) -> str | None:
    """The id of its deployment, whose row is locked, when there is something to tell of it; a mere beat locks the
    replica's row alone. Only who holds a replica changes its status, so that may be read before it is locked."""
    query = select(replicas.c.deployment_id, replicas.c.status).where(replicas.c.id == replica_id)
    row = connection.execute(query).first()
    if row is None:
        raise LeaseLost(f"{replica_id} is gone")
    if not has_events and status in (None, row.status):
        return None
    return lock(connection, row.deployment_id).id


def _tell_guests(connection: Connection, host_id: str, events: Sequence[NewEvent], replica_id: str) -> None:
    """What happens to an adapter is told where it is deployed, too."""
    about = {str(event.data["adapter"]): event for event in events if "adapter" in event.data}
    for guest in guests(connection, host_id) if about else ():
        if (event := about.get(guest.model_name)) is not None:
            lock(connection, guest.deployment_id)
            note_all(connection, guest.deployment_id, [event], replica_id)


def _hold(connection: Connection, replica_id: str, attempt: int) -> str:
    """The fence; returns what is wanted of this process."""
    query = select(replicas.c.wanted).where(
        replicas.c.id == replica_id, replicas.c.attempt == attempt, replicas.c.worker_id.is_not(None)
    )
    row = connection.execute(query.with_for_update()).first()
    if row is None:
        raise LeaseLost(f"Attempt {attempt} of {replica_id} is over: somebody else has the replica, or nobody")
    return str(row.wanted)


def _of_status(status: str | None, error: str | None, *, is_news: bool) -> Mapping[str, Any]:
    if status == "ready":
        return {"num_failures": 0, "error": error} | ({"ready_at": now()} if is_news else {})
    return {"ready_at": None} if status is not None else {}


def _let_go(
    connection: Connection, deployment_id: str, replica_id: str, error: str | None, log_tail: str | None
) -> Replica:
    """Nobody holds it now. The caller holds the deployment's row."""
    before = _get(connection, replica_id)
    failures = before.num_failures + (error is not None)
    status = "stopped" if before.wanted == "stopped" else "failed" if failures >= MAX_FAILURES else "pending"
    values: dict[str, Any] = {**NOBODYS, "status": status, "num_failures": failures, "error": error}
    values |= {} if log_tail is None else {"log_tail": log_tail}
    connection.execute(update(replicas).where(replicas.c.id == replica_id).values(values))
    told = {
        "stopped": Text("Replica {ordinal} is stopped", ordinal=before.ordinal),
        "failed": Text("Replica {ordinal} is given up: {error}", ordinal=before.ordinal, error=error),
        "pending": Text("Replica {ordinal} waits for a worker", ordinal=before.ordinal),
    }
    level = "error" if status == "failed" else "info"
    note(connection, deployment_id, status, told[status], replica_id=replica_id, level=level)
    settle(connection, deployment_id)
    return _get(connection, replica_id)


def _tail(log: str | None) -> str | None:
    return None if log is None else log[-MAX_LOG_CHARACTERS:]
