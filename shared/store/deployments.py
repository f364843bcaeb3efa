"""Deployments: what users want served. A deployment's replicas are rows from the start, claimed by inference workers.

A change of the spec other than the number of replicas stops the old replicas, which then start anew with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, and_, insert, or_, select, update

from shared.errors import Conflict
from shared.ids import new_id
from shared.records import Deployment, Replica
from shared.store.columns import now, record
from shared.store.engine import Database
from shared.store.fleet_tables import routes
from shared.store.moves import lock_project
from shared.store.names import check_name
from shared.store.paging import one
from shared.store.replicas import insert_replica, replicas_query
from shared.store.tables import deployments, replicas


class Deployments:
    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, project_id: str, *, name: str, model_name: str, spec: Mapping[str, Any]) -> Deployment:
        check_name(name)
        with self._database.write() as connection:
            lock_project(connection, project_id)
            if deployment_is_taken(connection, project_id, name):
                raise Conflict("There is a deployment {name!r} in this project already", field="name", name=name)
            mine = routes.c.project_id == project_id, routes.c.name == name
            if connection.execute(select(1).where(*mine)).first() is not None:
                raise Conflict("There is a route {name!r} in this project already", field="name", name=name)
            return insert_deployment(connection, project_id, name=name, model_name=model_name, spec=spec)

    def get(self, project_id: str, id_or_name: str) -> Deployment:
        """By id, also when it was stopped, or by the name of one that runs."""
        with self._database.read() as connection:
            return _find(connection, project_id, id_or_name)

    def list(self, project_id: str, *, stopped: bool = False) -> list[Deployment]:
        """Oldest first; those that were stopped and have no replica left only when asked for."""
        query = select(deployments).where(deployments.c.project_id == project_id)
        query = query.order_by(deployments.c.created_at, deployments.c.id)
        if not stopped:
            live = select(replicas.c.deployment_id).where(replicas.c.status != "stopped")
            query = query.where(or_(deployments.c.wanted == "running", deployments.c.id.in_(live)))
        with self._database.read() as connection:
            return _with_replicas(connection, [record(Deployment, row) for row in connection.execute(query).mappings()])

    def delete(self, project_id: str, id_or_name: str) -> Deployment:
        """Wanted no longer: replicas stop as soon as their workers see it."""
        with self._database.write() as connection:
            lock_project(connection, project_id)
            deployment = _find(connection, project_id, id_or_name)
            connection.execute(_row(deployment).values(wanted="stopped"))
            _stop(connection, deployment, from_ordinal=0)
            return _find(connection, project_id, deployment.id)

    def update_spec(self, project_id: str, id_or_name: str, spec: Mapping[str, Any]) -> Deployment:
        with self._database.write() as connection:
            lock_project(connection, project_id)
            before = _find(connection, project_id, id_or_name)
            if before.wanted != "running":
                raise Conflict("Deployment {name!r} is stopped: make a new one", name=before.name)
            same = {**before.spec, "replicas": None} == {**spec, "replicas": None}
            after = replace(before, spec=dict(spec), generation=before.generation + (0 if same else 1))
            connection.execute(_row(before).values(spec=after.spec, generation=after.generation))
            _scale(connection, after)
            return _find(connection, project_id, before.id)


def insert_deployment(
    connection: Connection, project_id: str, *, name: str, model_name: str, spec: Mapping[str, Any]
) -> Deployment:
    """The deployment and its pending replicas. The caller holds the project's row."""
    deployment = Deployment(
        id=new_id("dep-"),
        project_id=project_id,
        name=name,
        model_name=model_name,
        spec=dict(spec),
        wanted="running",
        generation=1,
        created_at=now(),
    )
    row = {column.name: getattr(deployment, column.name) for column in deployments.columns}
    connection.execute(insert(deployments).values(row))
    _scale(connection, deployment)
    return _find(connection, project_id, deployment.id)


def deployment_is_taken(connection: Connection, project_id: str, name: str) -> bool:
    running = and_(deployments.c.name == name, deployments.c.wanted == "running")
    return connection.execute(select(1).where(deployments.c.project_id == project_id, running)).first() is not None


def _row(deployment: Deployment) -> Any:
    return update(deployments).where(deployments.c.id == deployment.id)


def _find(connection: Connection, project_id: str, id_or_name: str) -> Deployment:
    named = and_(deployments.c.name == id_or_name, deployments.c.wanted == "running")
    query = select(deployments).where(
        deployments.c.project_id == project_id, or_(deployments.c.id == id_or_name, named)
    )
    query = query.order_by((deployments.c.id == id_or_name).desc()).limit(1)
    row = one(connection, query, f"deployment {id_or_name!r}")
    return _with_replicas(connection, [record(Deployment, row)])[0]


def _with_replicas(connection: Connection, found: Sequence[Deployment]) -> list[Deployment]:
    query = replicas_query().where(replicas.c.deployment_id.in_([deployment.id for deployment in found]))
    rows = connection.execute(query.order_by(replicas.c.ordinal)).mappings()
    every = [record(Replica, row) for row in rows]
    return [
        replace(deployment, replicas=[replica for replica in every if replica.deployment_id == deployment.id])
        for deployment in found
    ]


def _scale(connection: Connection, deployment: Deployment) -> None:
    """Rows for as many replicas as the spec wants; those beyond are wanted no longer, failed ones get a new start."""
    wanted = int(deployment.spec.get("replicas", 1))
    known = {replica.ordinal: replica for replica in deployment.replicas}
    for ordinal in range(wanted):
        if ordinal not in known:
            insert_replica(connection, deployment, ordinal)
    rows = update(replicas).where(replicas.c.deployment_id == deployment.id, replicas.c.ordinal < wanted)
    connection.execute(rows.values(wanted="running"))
    again = rows.where(replicas.c.status.in_(("stopped", "failed")), replicas.c.worker_id.is_(None))
    connection.execute(again.values(status="pending", num_failures=0, error=None))
    _stop(connection, deployment, from_ordinal=wanted)


def _stop(connection: Connection, deployment: Deployment, *, from_ordinal: int) -> None:
    rows = update(replicas).where(replicas.c.deployment_id == deployment.id, replicas.c.ordinal >= from_ordinal)
    connection.execute(rows.values(wanted="stopped"))
    connection.execute(rows.where(replicas.c.worker_id.is_(None)).values(status="stopped"))
