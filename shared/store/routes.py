"""Routes: names of a project that stand for one deployment, or for several that share the requests by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.errors import Conflict
from shared.records import Route
from shared.store import named
from shared.store.columns import record
from shared.store.deployments import deployment_is_taken
from shared.store.engine import Database
from shared.store.fleet_tables import routes
from shared.store.moves import lock_project
from shared.store.names import check_name

WHAT = "route"


class Routes:
    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, project_id: str, name: str, targets: Sequence[Mapping[str, Any]]) -> tuple[Route, bool]:
        """Made, or its targets replaced; whether it was made. Raises Conflict where a deployment has the name."""
        check_name(name)
        with self._database.write() as connection:
            lock_project(connection, project_id)
            if deployment_is_taken(connection, project_id, name):
                text = "There is a deployment {name!r}: a route of that name would never be asked"
                raise Conflict(text, field="name", name=name)
            values = {"targets": [dict(target) for target in targets]}
            is_new = named.put(connection, routes, project_id, name, values)
            return record(Route, named.find(connection, routes, project_id, name, WHAT)), is_new

    def get(self, project_id: str, name: str) -> Route:
        with self._database.read() as connection:
            return record(Route, named.find(connection, routes, project_id, name, WHAT))

    def list(self, project_id: str) -> list[Route]:
        """By name."""
        with self._database.read() as connection:
            return [record(Route, row) for row in named.every(connection, routes, project_id)]

    def delete(self, project_id: str, name: str) -> None:
        with self._database.write() as connection:
            named.remove(connection, routes, project_id, name, WHAT)
