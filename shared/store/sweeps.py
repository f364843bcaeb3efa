"""When beat last swept: for people and probes. No lease depends on it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from shared.store.engine import Database, ledger_time
from shared.store.tables import meta

KEY = "swept_at"


class Sweeps:
    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self) -> None:
        """One was made to its end."""
        with self._database.write() as connection:
            row = {"value": ledger_time(connection).isoformat()}
            new = self._database.insert(meta).values(key=KEY, **row)
            connection.execute(new.on_conflict_do_update(index_elements=[meta.c.key], set_=row))

    def age_seconds(self) -> float | None:
        """Since the last one, by the ledger's clock; None: there was none yet."""
        with self._database.read() as connection:
            swept_at = connection.execute(select(meta.c.value).where(meta.c.key == KEY)).scalar()
            moment = ledger_time(connection)
        return (moment - datetime.fromisoformat(swept_at)).total_seconds() if swept_at else None
