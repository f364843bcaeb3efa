"""When something last came to its end (a sweep, a backup): for people and probes. No lease depends on it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from shared.store.engine import Database, ledger_time
from shared.store.tables import meta


class Moment:
    def __init__(self, database: Database, key: str) -> None:
        self._database = database
        self._key = key

    def note(self) -> None:
        """One was made to its end."""
        with self._database.write() as connection:
            row = {"value": ledger_time(connection).isoformat()}
            new = self._database.insert(meta).values(key=self._key, **row)
            connection.execute(new.on_conflict_do_update(index_elements=[meta.c.key], set_=row))

    def age_seconds(self) -> float | None:
        """Since the last one, by the ledger's clock; None: there was none yet."""
        with self._database.read() as connection:
            noted_at = connection.execute(select(meta.c.value).where(meta.c.key == self._key)).scalar()
            moment = ledger_time(connection)
        return (moment - datetime.fromisoformat(noted_at)).total_seconds() if noted_at else None
