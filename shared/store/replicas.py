"""Replicas: vLLM processes, claimed, leased and fenced like jobs by inference workers; read by gateways to route.

A worker has a replica while `worker_id` says so, whatever its status: one whose start failed stays with its worker,
which tries again. A replica whose holders were lost, or gave up, MAX_FAILURES times in a row without it getting ready
is left `failed` until its deployment's spec is changed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, exists, insert, select, update

from shared.errors import LeaseLost
from shared.ids import new_id
from shared.records import Deployment, HeldReplica, Replica
from shared.store.columns import now, record
from shared.store.engine import Database
from shared.store.tables import deployments, models, replicas

MAX_FAILURES = 3
#: Of a failed server's log, for people.
MAX_LOG_CHARACTERS = 20_000
#: What a replica has only while it is held.
NOBODYS = {"worker_id": None, "url": None, "api_key": None, "load": 0.0}


class Replicas:
    def __init__(self, database: Database) -> None:
        self._database = database

    def claim_next(
        self, worker_id: str, storage_id: str | None = None, left_out: Collection[str] = ()
    ) -> Replica | None:
        """The oldest replica that nobody holds, now `starting` under a new attempt; None when there is none. Models of
        the formats `left_out` are left to other workers."""
        waiting = replicas.c.status == "pending", replicas.c.wanted == "running", replicas.c.worker_id.is_(None)
        query = replicas_query().where(*waiting, *([_is_of_no(left_out)] if left_out else []))
        with self._database.read() as connection:
            if connection.execute(query.limit(1)).first() is None:
                return None
        query = query.order_by(replicas.c.num_failures, replicas.c.created_at, replicas.c.id)
        with self._database.write() as connection:
            locked = query.limit(1).with_for_update(of=replicas, skip_locked=True)
            row = connection.execute(locked).mappings().first()
            if row is None:
                return None
            generation = select(deployments.c.generation).where(deployments.c.id == row["deployment_id"])
            mine = {"worker_id": worker_id, "storage_id": storage_id, "attempt": row["attempt"] + 1, "beat": 0}
            values = {**mine, "status": "starting", "log_tail": None, "generation": generation.scalar_subquery()}
            connection.execute(update(replicas).where(replicas.c.id == row["id"]).values(values))
            return _get(connection, row["id"])

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
    ) -> str:
        """One beat, with what changed. Returns what is wanted: "running" or "stopped". Raises: LeaseLost"""
        told = {"status": status, "url": url, "load": load, "error": error, "api_key": api_key}
        told |= {"log_tail": _tail(log_tail), "served_name": served_name}
        values: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
        if status == "ready":
            values |= {"num_failures": 0, "error": error}
        with self._database.write() as connection:
            wanted = _hold(connection, replica_id, attempt)
            beat = replicas.c.beat + 1
            connection.execute(update(replicas).where(replicas.c.id == replica_id).values(beat=beat, **values))
            return wanted

    def release(
        self, replica_id: str, attempt: int, *, error: str | None = None, log_tail: str | None = None
    ) -> Replica:
        """The process is gone: stopped when that was wanted, else to be started again. Raises: LeaseLost

        `error` says that the worker gives up on it, and counts as a failure.
        """
        with self._database.write() as connection:
            _hold(connection, replica_id, attempt)
            return _let_go(connection, replica_id, error, _tail(log_tail))

    def held(self) -> list[HeldReplica]:
        columns = replicas.c.id, replicas.c.attempt, replicas.c.beat, replicas.c.worker_id
        with self._database.read() as connection:
            rows = connection.execute(select(*columns).where(replicas.c.worker_id.is_not(None)))
            return [HeldReplica(*row) for row in rows]

    def reclaim(self, replica_id: str, attempt: int, beat: int, reason: str) -> Replica:
        """Take it from a holder whose beat still is `beat`. Raises: LeaseLost when it has moved on since"""
        with self._database.write() as connection:
            _hold(connection, replica_id, attempt)
            if _get(connection, replica_id).beat != beat:
                raise LeaseLost(f"The holder of {replica_id} is alive: its beat has moved on from {beat}")
            return _let_go(connection, replica_id, reason, None)

    def ready(self, project_id: str | None = None) -> list[Replica]:
        """Those that answer requests; `project_id` None: of all projects (for the sweep and metrics)."""
        query = replicas_query().where(replicas.c.status == "ready", replicas.c.wanted == "running")
        query = query if project_id is None else query.where(deployments.c.project_id == project_id)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(replicas.c.deployment_id, replicas.c.ordinal)).mappings()
            return [record(Replica, row) for row in rows]

    def list(self, project_id: str | None = None, deployment_id: str | None = None) -> list[Replica]:
        """Of one project, or of all (for metrics); of one deployment, or of all."""
        query = replicas_query().order_by(replicas.c.deployment_id, replicas.c.ordinal)
        query = query if project_id is None else query.where(deployments.c.project_id == project_id)
        query = query if deployment_id is None else query.where(replicas.c.deployment_id == deployment_id)
        with self._database.read() as connection:
            return [record(Replica, row) for row in connection.execute(query).mappings()]


def _is_of_no(formats: Collection[str]) -> ColumnElement[bool]:
    of = models.c.project_id == deployments.c.project_id, models.c.name == deployments.c.model_name
    return ~exists(select(models.c.id).where(*of, models.c.format.in_(formats)))


def replicas_query() -> Select[Any]:
    """Replicas with what they have of their deployment."""
    of_deployment = (
        deployments.c.project_id,
        deployments.c.name.label("deployment_name"),
        deployments.c.model_name,
        deployments.c.spec,
    )
    return select(replicas, *of_deployment).join(deployments, deployments.c.id == replicas.c.deployment_id)


def insert_replica(connection: Connection, deployment: Deployment, ordinal: int) -> None:
    row = {
        "id": new_id("replica-"),
        "deployment_id": deployment.id,
        "ordinal": ordinal,
        "served_name": deployment.model_name,
        "status": "pending",
        "wanted": "running",
        "generation": deployment.generation,
        "attempt": 0,
        "beat": 0,
        "load": 0.0,
        "num_failures": 0,
        "created_at": now(),
    }
    connection.execute(insert(replicas).values(row))


def _get(connection: Connection, replica_id: str) -> Replica:
    row = connection.execute(replicas_query().where(replicas.c.id == replica_id)).mappings().one()
    return record(Replica, row)


def _hold(connection: Connection, replica_id: str, attempt: int) -> str:
    """The fence; returns what is wanted of this process: "stopped" also when the deployment's spec has changed."""
    wanted = (replicas.c.wanted == "running") & (replicas.c.generation == deployments.c.generation)
    query = (
        select(wanted)
        .join(deployments, deployments.c.id == replicas.c.deployment_id)
        .where(replicas.c.id == replica_id, replicas.c.attempt == attempt, replicas.c.worker_id.is_not(None))
        .with_for_update(of=replicas)
    )
    row = connection.execute(query).first()
    if row is None:
        raise LeaseLost(f"Attempt {attempt} of {replica_id} is over: somebody else has the replica, or nobody")
    return "running" if row[0] else "stopped"


def _let_go(connection: Connection, replica_id: str, error: str | None, log_tail: str | None) -> Replica:
    before = _get(connection, replica_id)
    failures = before.num_failures + (error is not None)
    status = "stopped" if before.wanted == "stopped" else "failed" if failures >= MAX_FAILURES else "pending"
    values: dict[str, Any] = {**NOBODYS, "status": status, "num_failures": failures, "error": error}
    values |= {} if log_tail is None else {"log_tail": log_tail}
    connection.execute(update(replicas).where(replicas.c.id == replica_id).values(values))
    return _get(connection, replica_id)


def _tail(log: str | None) -> str | None:
    return None if log is None else log[-MAX_LOG_CHARACTERS:]
