"""Presets: generation parameters of a project under a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, insert, select, update

from shared.errors import NotFound
from shared.records import Preset
from shared.store.columns import now, record
from shared.store.engine import Database
from shared.store.fleet_tables import presets
from shared.store.moves import lock_project
from shared.store.names import check_name
from shared.store.paging import one


class Presets:
    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self, project_id: str, name: str, parameters: Mapping[str, Any], description: str | None = None
    ) -> tuple[Preset, bool]:
        """Made, or replaced; whether it was made."""
        check_name(name)
        values = {"parameters": dict(parameters), "description": description, "updated_at": now()}
        mine = presets.c.project_id == project_id, presets.c.name == name
        with self._database.write() as connection:
            lock_project(connection, project_id)
            is_new = connection.execute(select(1).where(*mine)).first() is None
            if is_new:
                row = {"project_id": project_id, "name": name, "created_at": values["updated_at"], **values}
                connection.execute(insert(presets).values(row))
            else:
                connection.execute(update(presets).where(*mine).values(values))
            return record(Preset, one(connection, select(presets).where(*mine), f"preset {name!r}")), is_new

    def get(self, project_id: str, name: str) -> Preset:
        query = select(presets).where(presets.c.project_id == project_id, presets.c.name == name)
        with self._database.read() as connection:
            return record(Preset, one(connection, query, f"preset {name!r}"))

    def list(self, project_id: str) -> list[Preset]:
        """By name."""
        query = select(presets).where(presets.c.project_id == project_id).order_by(presets.c.name)
        with self._database.read() as connection:
            return [record(Preset, row) for row in connection.execute(query).mappings()]

    def delete(self, project_id: str, name: str) -> None:
        mine = presets.c.project_id == project_id, presets.c.name == name
        with self._database.write() as connection:
            if not connection.execute(delete(presets).where(*mine)).rowcount:
                raise NotFound("There is no {what} in this project", what=f"preset {name!r}")
