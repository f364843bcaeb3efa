"""What the tables have in common whose key is a project and a name: within a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, delete, insert, select, update

from shared.errors import NotFound
from shared.store.columns import now
from shared.store.paging import one


def put(connection: Connection, table: Table, project_id: str, name: str, values: Mapping[str, Any]) -> bool:
    """Made, or its values replaced; whether it was made. The caller holds the project's row."""
    mine = table.c.project_id == project_id, table.c.name == name
    told = {**values, "updated_at": now()}
    if connection.execute(update(table).where(*mine).values(told)).rowcount:
        return False
    row = {"project_id": project_id, "name": name, "created_at": told["updated_at"], **told}
    connection.execute(insert(table).values(row))
    return True


def find(connection: Connection, table: Table, project_id: str, name: str, what: str) -> RowMapping:
    """Raises NotFound, in which it is `what` that there is none of."""
    query = select(table).where(table.c.project_id == project_id, table.c.name == name)
    return one(connection, query, f"{what} {name!r}")


def every(connection: Connection, table: Table, project_id: str) -> list[RowMapping]:
    """By name."""
    query = select(table).where(table.c.project_id == project_id).order_by(table.c.name)
    return list(connection.execute(query).mappings())


def remove(connection: Connection, table: Table, project_id: str, name: str, what: str) -> None:
    """Raises NotFound"""
    mine = table.c.project_id == project_id, table.c.name == name
    if not connection.execute(delete(table).where(*mine)).rowcount:
        raise NotFound("There is no {what} in this project", what=f"{what} {name!r}")
