"""Keyset pages: records after a cursor record, by (created_at, id). An unknown cursor is an error, never page one."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import Connection, RowMapping, Select, Table, and_, or_, select

from shared.errors import InvalidRequest, NotFound
from shared.records import Page
from shared.store.columns import record
from shared.store.tables import jobs

T = TypeVar("T")
#: The most records of one page, whatever was asked for.
MAX_LIMIT = 10_000


class InvalidCursor(InvalidRequest):
    """`after` names no record of this list."""

    code = "invalid_cursor"


def page(
    connection: Connection,
    query: Select[Any],
    table: Table,
    kind: type[T],
    *,
    project_id: str,
    after: str | None,
    limit: int,
    order: str,
) -> Page[T]:
    """`query` selects from `table`; newest first unless `order` is "asc"."""
    if order not in ("asc", "desc"):
        raise InvalidRequest("order is {order!r}: use 'asc' or 'desc'", field="order", order=order)
    limit = max(1, min(limit, MAX_LIMIT))
    query = query.where(table.c.project_id == project_id)
    if after is not None:
        query = query.where(_beyond(connection, table, project_id, after, order))
    keys = (table.c.created_at, table.c.id)
    query = query.order_by(*(key.asc() if order == "asc" else key.desc() for key in keys))
    rows = connection.execute(query.limit(limit + 1)).mappings().all()
    return Page(items=[record(kind, row) for row in rows[:limit]], has_more=len(rows) > limit)


def _beyond(connection: Connection, table: Table, project_id: str, after: str, order: str) -> Any:
    cursor = select(table.c.created_at).where(table.c.id == after, table.c.project_id == project_id)
    moment = connection.execute(cursor).scalar()
    if moment is None:
        raise InvalidCursor(f"after is {after!r}: there is no such record in this list", field="after")
    created_at, key = table.c.created_at, table.c.id
    if order == "asc":
        return or_(created_at > moment, and_(created_at == moment, key > after))
    return or_(created_at < moment, and_(created_at == moment, key < after))


def check_job(connection: Connection, project_id: str, job_id: str) -> None:
    """Raises: NotFound for another project's job"""
    one(connection, select(jobs.c.id).where(jobs.c.id == job_id, jobs.c.project_id == project_id), f"job {job_id!r}")


def one(connection: Connection, query: Select[Any], what: str) -> RowMapping:
    """The first row of `query`; NotFound names `what` was looked for."""
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound("There is no {what} in this project", what=what)
    return row
