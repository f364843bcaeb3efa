"""What writing transactions on a deployment are made of: lock its row, move its replicas, number its events.

Transactions lock a project's row before a deployment's, and a deployment's before its replicas', so they cannot
deadlock. A replica's heartbeat locks its own row alone. What is to be started and stopped next is shared/rollout.py's
to say, asked here after whatever changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from shared import rollout
from shared.ids import new_id
from shared.records import Deployment, NewEvent, Replica
from shared.store.columns import now, record
from shared.store.fleet_tables import deployment_events
from shared.store.tables import deployments, replicas
from shared.tongues import Text, chinese

#: Of a deployment the newest are kept: one that crashes for weeks must not fill the ledger.
MAX_EVENTS = 2_000
#: What a replica has only while it is held.
NOBODYS: Mapping[str, Any] = {
    "worker_id": None, "url": None, "api_key": None, "load": 0.0, "ready_at": None, "adapters": [],
    "adapter_errors": {}, "max_lora_rank": None,
}  # fmt: skip


def replicas_query() -> Select[Any]:
    """Replicas with what they have of their deployment."""
    of_deployment = deployments.c.project_id, deployments.c.name.label("deployment_name")
    return select(replicas, *of_deployment).join(deployments, deployments.c.id == replicas.c.deployment_id)


def lock(connection: Connection, deployment_id: str) -> Deployment:
    """The deployment, its row locked until the transaction ends."""
    query = select(deployments).where(deployments.c.id == deployment_id).with_for_update(key_share=True)
    found = record(Deployment, connection.execute(query).mappings().one())
    rows = replicas_query().where(replicas.c.deployment_id == deployment_id).order_by(replicas.c.ordinal)
    return replace(found, replicas=[record(Replica, row) for row in connection.execute(rows).mappings()])


def settle(connection: Connection, deployment_id: str) -> None:
    """Start and stop what the deployment's state asks for now."""
    deployment = lock(connection, deployment_id)
    todo = rollout.moves(deployment)
    if todo.failure is not None:
        deployment = _taken_back(connection, deployment, todo.failure)
        todo = rollout.moves(deployment)
    for id in todo.stop:
        mine = update(replicas).where(replicas.c.id == id)
        connection.execute(mine.values(wanted="stopped"))
        connection.execute(mine.where(replicas.c.worker_id.is_(None)).values(status="stopped"))
    _start(connection, deployment, todo.start)
    if todo.is_done:
        _finish(connection, deployment, rollout.DONE)
        text = Text("Generation {generation} serves: the update is complete", generation=deployment.generation)
        note(connection, deployment.id, "updated", text)


def note(
    connection: Connection,
    deployment_id: str,
    type: str,
    message: Text,
    *,
    replica_id: str | None = None,
    level: str = "info",
    **data: Any,
) -> None:
    """One event. The caller holds the deployment's row: numbers are given one after another."""
    mine = deployment_events.c.deployment_id == deployment_id
    last = connection.execute(select(func.max(deployment_events.c.number)).where(mine)).scalar() or 0
    row = {
        "deployment_id": deployment_id,
        "number": last + 1,
        "replica_id": replica_id,
        "level": level,
        "type": type,
        "message": str(message),
        "data": chinese.beside(message, data),
        "created_at": now(),
    }
    connection.execute(insert(deployment_events).values(row))
    if last >= MAX_EVENTS:
        connection.execute(delete(deployment_events).where(mine, deployment_events.c.number <= last + 1 - MAX_EVENTS))


def note_all(connection: Connection, deployment_id: str, events: Sequence[NewEvent], replica_id: str) -> None:
    """Events that the replica's holder has worded."""
    for event in events:
        about: dict[str, Any] = {"replica_id": replica_id, "level": event.level, **event.data}
        note(connection, deployment_id, event.type, Text(event.message), **about)


def _start(connection: Connection, deployment: Deployment, count: int) -> None:
    """Rows of replicas that are gone are used again: their attempts count on."""
    fresh = {
        "status": "pending", "wanted": "running", "generation": deployment.generation, "spec": deployment.spec,
        "model_name": deployment.model_name, "served_name": deployment.model_name, "num_failures": 0, "error": None,
        "log_tail": None, "created_at": now(), **NOBODYS,
    }  # fmt: skip
    gone = [one for one in deployment.replicas if one.status == "stopped" and one.worker_id is None][:count]
    for replica in gone:
        connection.execute(update(replicas).where(replicas.c.id == replica.id).values(fresh))
    first = max((one.ordinal for one in deployment.replicas), default=-1) + 1
    rows = [
        {**fresh, "id": new_id("replica-"), "deployment_id": deployment.id, "ordinal": ordinal, "attempt": 0, "beat": 0}
        for ordinal in range(first, first + count - len(gone))
    ]
    if rows:
        connection.execute(insert(replicas), rows)


def _taken_back(connection: Connection, deployment: Deployment, why: str) -> Deployment:
    """To the generation that was before."""
    before = (deployment.rollout or {})["before"]
    text = Text(
        "Generation {generation} failed and generation {before} goes on: {why}",
        generation=deployment.generation,
        before=before["generation"],
        why=why,
    )
    note(connection, deployment.id, "rolled_back", text, level="error")
    _finish(connection, deployment, rollout.ROLLED_BACK, error=why)
    connection.execute(update(deployments).where(deployments.c.id == deployment.id).values(before))
    return lock(connection, deployment.id)


def _finish(connection: Connection, deployment: Deployment, status: str, **more: Any) -> None:
    told = {name: value for name, value in (deployment.rollout or {}).items() if name != "before"}
    told |= {"status": status, "ended_at": now().isoformat(), **more}
    connection.execute(update(deployments).where(deployments.c.id == deployment.id).values(rollout=told))
