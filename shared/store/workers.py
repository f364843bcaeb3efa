"""Workers as they report themselves: for people, metrics, scaling, and leaders that look for more nodes (members.py).

Leases do not depend on these rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import delete, select

from shared.job import Kind
from shared.records import Worker
from shared.store.columns import now, record
from shared.store.engine import Database, ledger_time
from shared.store.tables import workers


class Workers:
    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(
        self,
        worker_id: str,
        *,
        kinds: Iterable[Kind | str],
        host: str,
        devices: Iterable[str],
        storage_id: str,
        labels: Iterable[str] = (),
        metrics_url: str | None = None,
        version: str,
        machine: Mapping[str, Any] | None = None,
        address: str | None = None,
    ) -> None:
        row: dict[str, Any] = {
            "kinds": [str(kind) for kind in kinds],
            "host": host,
            "devices": list(devices),
            "storage_id": storage_id,
            "labels": list(labels),
            "metrics_url": metrics_url,
            "version": version,
            "machine": dict(machine or {}),
            "address": address,
        }
        with self._database.write() as connection:
            row["seen_at"] = ledger_time(connection)
            new = self._database.insert(workers).values(id=worker_id, started_at=now(), **row)
            connection.execute(new.on_conflict_do_update(index_elements=[workers.c.id], set_=row))

    def list(self) -> list[Worker]:
        with self._database.read() as connection:
            found = [
                record(Worker, row) for row in connection.execute(select(workers).order_by(workers.c.id)).mappings()
            ]
            moment = ledger_time(connection)
        return [replace(worker, age_seconds=(moment - worker.seen_at).total_seconds()) for worker in found]

    def remove(self, worker_id: str) -> None:
        with self._database.write() as connection:
            connection.execute(delete(workers).where(workers.c.id == worker_id))
