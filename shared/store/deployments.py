"""Deployments: what users want served. A deployment's replicas are rows from the start, claimed by inference workers.

Whatever changes here, shared/rollout.py says which replicas start and stop then: those of a changed spec come up beside
the ones that serve, and take their place when they are ready.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, and_, insert, or_, select, update

from shared import rollout, scaling
from shared.adapterfiles import AdapterFiles
from shared.errors import Conflict
from shared.hosting import Placement
from shared.ids import new_id
from shared.records import Deployment, Guest
from shared.store.columns import now, record
from shared.store.engine import Database, ledger_time
from shared.store.fleet_moves import lock, note, settle
from shared.store.fleet_tables import routes
from shared.store.hosting import check_guests, place, placed_again
from shared.store.moves import lock_project
from shared.store.names import check_name
from shared.store.paging import one
from shared.store.standing import guests, with_replicas
from shared.store.tables import deployments, replicas
from shared.tongues import Text


class Deployments:
    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        project_id: str,
        *,
        name: str,
        model_name: str,
        spec: Mapping[str, Any],
        files: AdapterFiles | None = None,
    ) -> Deployment:
        """`files` of an adapter, which is loaded on the replicas of another deployment where one fits. Raises:
        InvalidSpec when the one that it asks for does not"""
        check_name(name)
        with self._database.write() as connection:
            lock_project(connection, project_id)
            if deployment_is_taken(connection, project_id, name):
                raise Conflict("There is a deployment {name!r} in this project already", field="name", name=name)
            mine = routes.c.project_id == project_id, routes.c.name == name
            if connection.execute(select(1).where(*mine)).first() is not None:
                raise Conflict("There is a route {name!r} in this project already", field="name", name=name)
            placement = place(connection, project_id, model_name, spec, files)
            return insert_deployment(
                connection, project_id, name=name, model_name=model_name, spec=spec, placement=placement
            )

    def get(self, project_id: str, id_or_name: str) -> Deployment:
        """By id, also when it was stopped, or by the name of one that runs."""
        with self._database.read() as connection:
            return _find(connection, project_id, id_or_name)

    def guests(self, deployment_id: str) -> list[Guest]:
        """Adapters that are wanted on its replicas."""
        with self._database.read() as connection:
            return guests(connection, deployment_id)

    def list(self, project_id: str, *, stopped: bool = False) -> list[Deployment]:
        """Oldest first; those that were stopped and have no replica left only when asked for."""
        query = select(deployments).where(deployments.c.project_id == project_id)
        query = query.order_by(deployments.c.created_at, deployments.c.id)
        if not stopped:
            live = select(replicas.c.deployment_id).where(replicas.c.status != "stopped")
            query = query.where(or_(deployments.c.wanted == "running", deployments.c.id.in_(live)))
        with self._database.read() as connection:
            return with_replicas(connection, [record(Deployment, row) for row in connection.execute(query).mappings()])

    def running(self) -> Sequence[Deployment]:
        """Of all projects; for the sweep."""
        query = select(deployments).where(deployments.c.wanted == "running")
        with self._database.read() as connection:
            return with_replicas(connection, [record(Deployment, row) for row in connection.execute(query).mappings()])

    def delete(self, project_id: str, id_or_name: str) -> Deployment:
        """Wanted no longer: replicas stop as soon as their workers see it."""
        with self._database.write() as connection:
            lock_project(connection, project_id)
            deployment = lock(connection, _find(connection, project_id, id_or_name).id)
            if there := ", ".join(repr(guest.name) for guest in guests(connection, deployment.id)):
                text = "Deployment {name!r} has adapters of others on its replicas: delete {guests} first"
                raise Conflict(text, name=deployment.name, guests=there)
            if deployment.wanted == "running":
                connection.execute(_row(deployment).values(wanted="stopped"))
                note(connection, deployment.id, "deleted", Text("Deployment is deleted: its replicas are stopped"))
                settle(connection, deployment.id)
            return _find(connection, project_id, deployment.id)

    def update(
        self,
        project_id: str,
        seen: Deployment,
        spec: Mapping[str, Any],
        model_name: str | None = None,
        files: AdapterFiles | None = None,
    ) -> Deployment:
        """Another spec for the deployment as it was `seen`; `files` of the adapter that it serves then.

        Raises: Conflict when it has another one meanwhile, InvalidSpec when an adapter would not fit where it is
        """
        with self._database.write() as connection:
            lock_project(connection, project_id)
            before = lock(connection, _find(connection, project_id, seen.id).id)
            if before.wanted != "running":
                raise Conflict("Deployment {name!r} is stopped: make a new one", name=before.name)
            if (before.spec, before.generation) != (seen.spec, seen.generation):
                raise Conflict("Deployment {name!r} was changed meanwhile: look again", name=before.name)
            after = replace(before, spec=dict(spec), model_name=model_name or before.model_name)
            if before.host_id is not None:
                return self._update_hosted(connection, after, files)
            if not rollout.LIVE.issuperset(rollout.changed_fields(before.spec, after.spec)):
                check_guests(connection, after)
            values = {"num_wanted": scaling.resized(before, after.spec)} | _next_generation(connection, before, after)
            values |= {"spec": after.spec, "model_name": after.model_name}
            connection.execute(_row(before).values(values))
            _try_again(connection, before)
            settle(connection, before.id)
            return _find(connection, project_id, before.id)

    def _update_hosted(self, connection: Connection, after: Deployment, files: AdapterFiles | None) -> Deployment:
        """No replica is started anew: the adapter is loaded beside the one before, which answers until then."""
        before = _find(connection, after.project_id, after.id)
        told = {
            name: [before.spec.get(name), after.spec[name]] for name in rollout.changed_fields(before.spec, after.spec)
        }
        connection.execute(_row(before).values(placed_again(connection, before, after, files)))
        if told:
            note(connection, before.id, "changed", Text("Changed: {fields}", fields=", ".join(told)), changed=told)
        return _find(connection, before.project_id, before.id)

    def asked(self, project_id: str, deployment_id: str) -> bool:
        """A request names it: when is kept, and where nothing runs for it, replicas are started again. Whether they
        are. Where its adapter is loaded on another deployment's replicas, all this is for that one, too."""
        woken = self._asked(project_id, deployment_id)
        with self._database.read() as connection:
            query = select(deployments.c.host_id).where(deployments.c.id == deployment_id)
            host_id = connection.execute(query).scalar()
        return woken if host_id is None else self._asked(project_id, host_id)

    def rescale(self, deployment_id: str, *, before: int | None, num_wanted: int, type: str, why: Text) -> bool:
        """Another number of replicas, if `before` is still what is wanted; `why` is the event's message."""
        with self._database.write() as connection:
            deployment = lock(connection, deployment_id)
            if deployment.wanted != "running" or deployment.num_wanted != before:
                return False
            connection.execute(_row(deployment).values(num_wanted=num_wanted))
            note(connection, deployment.id, type, why)
            settle(connection, deployment.id)
            return True

    def settle(self, deployment: Deployment) -> None:
        """Start and stop what its state asks for, should somebody have ended before doing so."""
        if rollout.moves(deployment) != rollout.Moves():
            with self._database.write() as connection:
                settle(connection, deployment.id)

    def _asked(self, project_id: str, deployment_id: str) -> bool:
        mine = deployments.c.id == deployment_id, deployments.c.project_id == project_id
        with self._database.write() as connection:
            moment = ledger_time(connection)
            connection.execute(update(deployments).where(*mine).values(asked_at=moment))
            idle = select(deployments.c.id).where(*mine, deployments.c.num_wanted == 0)
            if connection.execute(idle.where(deployments.c.wanted == "running")).first() is None:
                return False
            deployment = lock(connection, deployment_id)
            connection.execute(_row(deployment).values(num_wanted=scaling.woken(deployment.spec)))
            note(connection, deployment.id, "woken", Text("A request came: replicas are started"))
            settle(connection, deployment.id)
            return True


def insert_deployment(
    connection: Connection,
    project_id: str,
    *,
    name: str,
    model_name: str,
    spec: Mapping[str, Any],
    placement: Placement,
) -> Deployment:
    """The deployment and its pending replicas, if it gets any. The caller holds the project's row."""
    deployment = Deployment(
        id=new_id("dep-"),
        project_id=project_id,
        name=name,
        model_name=model_name,
        spec=dict(spec),
        wanted="running",
        generation=1,
        created_at=now(),
        host_id=placement.host_id,
        hosting=placement.stored,
    )
    row = {column.name: getattr(deployment, column.name) for column in deployments.columns}
    connection.execute(insert(deployments).values(row))
    note(connection, deployment.id, "created", Text("Deployment of {model} is made", model=model_name))
    if placement.host_name is not None:
        text = Text("Its adapter is loaded on the replicas of {host}", host=placement.host_name)
        note(connection, deployment.id, "hosted", text, host_id=placement.host_id)
    elif placement.why is not None:
        note(connection, deployment.id, "placed", Text(placement.why))
    settle(connection, deployment.id)
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
    return with_replicas(connection, [record(Deployment, row)])[0]


def _next_generation(connection: Connection, before: Deployment, after: Deployment) -> dict[str, Any]:
    """What the deployment's row gets when running replicas cannot take the change over, and the event that says so."""
    changed = rollout.changed_fields(before.spec, after.spec)
    if not changed:
        return {}
    told = {name: [before.spec.get(name), after.spec.get(name)] for name in changed}
    if rollout.LIVE.issuperset(changed):
        text = Text("Changed: {fields}", fields=", ".join(changed))
        note(connection, before.id, "changed", text, changed=told)
        return {}
    under_way = before.rollout or {}
    number = max(before.generation, under_way.get("generation", 0)) + 1
    text = Text("Update to generation {generation}: {fields}", generation=number, fields=", ".join(changed))
    note(connection, before.id, "updating", text, changed=told, generation=number)
    if not any(replica.status == "ready" for replica in before.replicas):
        return {"generation": number, "rollout": None}  # nothing serves that could be gone back to
    last = {"generation": before.generation, "spec": before.spec, "model_name": before.model_name}
    plan = {"status": rollout.RUNNING, "generation": number, "changed": told, "started_at": now().isoformat()}
    return {"generation": number, "rollout": plan | {"before": under_way.get("before", last)}}


def _try_again(connection: Connection, deployment: Deployment) -> None:
    """Replicas that were given up get a new start."""
    given_up = replicas.c.deployment_id == deployment.id, replicas.c.status == "failed", replicas.c.worker_id.is_(None)
    again = {"status": "pending", "num_failures": 0, "error": None, "log_tail": None}
    connection.execute(update(replicas).where(*given_up, replicas.c.wanted == "running").values(again))
