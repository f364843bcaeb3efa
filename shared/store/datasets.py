"""Datasets: rows only, the files are artifacts. A name may be used again: it then means the newest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, insert, or_, select

from shared.ids import new_id
from shared.records import Dataset, NewDataset, Page
from shared.store.columns import now, record
from shared.store.engine import Database
from shared.store.names import check_name
from shared.store.paging import MAX_LIMIT, one, page
from shared.store.tables import datasets


class Datasets:
    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        project_id: str,
        *,
        name: str,
        filename: str,
        purpose: str,
        format: str | None,
        columns: Mapping[str, Any] | None,
        num_rows: int,
        size_bytes: int,
        digest: str,
        uri: str,
        status: str = "processed",
        id: str | None = None,
    ) -> Dataset:
        check_name(name)
        new = NewDataset(
            name=name,
            filename=filename,
            purpose=purpose,
            format=format,
            columns=dict(columns or {}),
            num_rows=num_rows,
            size_bytes=size_bytes,
            digest=digest,
            uri=uri,
            status=status,
            id=id,
        )
        with self._database.write() as connection:
            return insert_dataset(connection, project_id, new)

    def get(self, project_id: str, id_or_name: str) -> Dataset:
        with self._database.read() as connection:
            return _find(connection, project_id, id_or_name)

    def list(
        self,
        project_id: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = MAX_LIMIT,
        order: str = "desc",
    ) -> Page[Dataset]:
        query = select(datasets) if purpose is None else select(datasets).where(datasets.c.purpose == purpose)
        with self._database.read() as connection:
            return page(
                connection, query, datasets, Dataset, project_id=project_id, after=after, limit=limit, order=order
            )

    def delete(self, project_id: str, id_or_name: str) -> Dataset:
        """The deleted record, so that its files can go too."""
        with self._database.write() as connection:
            dataset = _find(connection, project_id, id_or_name)
            connection.execute(delete(datasets).where(datasets.c.id == dataset.id))
            return dataset


def insert_dataset(connection: Connection, project_id: str, new: NewDataset) -> Dataset:
    row = {**vars(new), "id": new.id or new_id("file-"), "project_id": project_id, "created_at": now()}
    connection.execute(insert(datasets).values(row))
    return record(Dataset, row)


def _find(connection: Connection, project_id: str, id_or_name: str) -> Dataset:
    named = or_(datasets.c.id == id_or_name, datasets.c.name == id_or_name)
    query = select(datasets).where(datasets.c.project_id == project_id, named)
    # An id beats a dataset that somebody named like it.
    query = query.order_by((datasets.c.id == id_or_name).desc(), datasets.c.created_at.desc(), datasets.c.id.desc())
    return record(Dataset, one(connection, query.limit(1), f"dataset {id_or_name!r}"))
