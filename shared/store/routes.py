"""Routes: names of a project that stand for one deployment, or for several that share the requests by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, insert, select, update

from shared.errors import Conflict, NotFound
from shared.records import Route
from shared.store.columns import now, record
from shared.store.deployments import deployment_is_taken
from shared.store.engine import Database
from shared.store.fleet_tables import routes
from shared.store.moves import lock_project
from shared.store.names import check_name
from shared.store.paging import one


class Routes:
    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, project_id: str, name: str, targets: Sequence[Mapping[str, Any]]) -> tuple[Route, bool]:
        """Made, or its targets replaced; whether it was made. Raises Conflict where a deployment has the name."""
        check_name(name)
        values = {"targets": [dict(target) for target in targets], "updated_at": now()}
        mine = routes.c.project_id == project_id, routes.c.name == name
        with self._database.write() as connection:
            lock_project(connection, project_id)
            if deployment_is_taken(connection, project_id, name):
                text = "There is a deployment {name!r}: a route of that name would never be asked"
                raise Conflict(text, field="name", name=name)
            is_new = connection.execute(select(1).where(*mine)).first() is None
            if is_new:
                row = {"project_id": project_id, "name": name, "created_at": values["updated_at"], **values}
                connection.execute(insert(routes).values(row))
            else:
                connection.execute(update(routes).where(*mine).values(values))
            return record(Route, one(connection, select(routes).where(*mine), f"route {name!r}")), is_new

    def get(self, project_id: str, name: str) -> Route:
        query = select(routes).where(routes.c.project_id == project_id, routes.c.name == name)
        with self._database.read() as connection:
            return record(Route, one(connection, query, f"route {name!r}"))

    def list(self, project_id: str) -> list[Route]:
        """By name."""
        query = select(routes).where(routes.c.project_id == project_id).order_by(routes.c.name)
        with self._database.read() as connection:
            return [record(Route, row) for row in connection.execute(query).mappings()]

    def delete(self, project_id: str, name: str) -> None:
        mine = routes.c.project_id == project_id, routes.c.name == name
        with self._database.write() as connection:
            if not connection.execute(delete(routes).where(*mine)).rowcount:
                raise NotFound("There is no {what} in this project", what=f"route {name!r}")
