"""Presets: generation parameters of a project under a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.records import Preset
from shared.store import named
from shared.store.columns import record
from shared.store.engine import Database
from shared.store.fleet_tables import presets
from shared.store.moves import lock_project
from shared.store.names import check_name

WHAT = "preset"


class Presets:
    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self, project_id: str, name: str, parameters: Mapping[str, Any], description: str | None = None
    ) -> tuple[Preset, bool]:
        """Made, or replaced; whether it was made."""
        check_name(name)
        with self._database.write() as connection:
            lock_project(connection, project_id)
            values = {"parameters": dict(parameters), "description": description}
            is_new = named.put(connection, presets, project_id, name, values)
            return record(Preset, named.find(connection, presets, project_id, name, WHAT)), is_new

    def get(self, project_id: str, name: str) -> Preset:
        with self._database.read() as connection:
            return record(Preset, named.find(connection, presets, project_id, name, WHAT))

    def list(self, project_id: str) -> list[Preset]:
        """By name."""
        with self._database.read() as connection:
            return [record(Preset, row) for row in named.every(connection, presets, project_id)]

    def delete(self, project_id: str, name: str) -> None:
        with self._database.write() as connection:
            named.remove(connection, presets, project_id, name, WHAT)
