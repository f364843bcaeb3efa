"""Files in the storage that no record names: of checkpoints on their way there, and of those that were removed.

A checkpoint's files are entered before the first byte is written and taken out in the transaction that makes its row:
whatever dies in between leaves nothing that nobody knows of.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import Connection, and_, delete, exists, insert, or_, select

from shared.job import HELD
from shared.store.columns import now
from shared.store.engine import Database
from shared.store.tables import discarded, jobs


class Discarded:
    def __init__(self, database: Database) -> None:
        self._database = database

    def expect(self, uris: Collection[str], storage_id: str | None, *, job_id: str, attempt: int) -> None:
        """The attempt is about to write these; if it ends before they have a record, they may go."""
        with self._database.write() as connection:
            discard(connection, uris, storage_id, job_id=job_id, attempt=attempt)

    def due(self, storage_id: str, *, grace_seconds: float) -> list[str]:
        """What may be deleted from this storage: nobody writes it any more, and nobody reads it since a while."""
        writing = jobs.c.id == discarded.c.job_id, jobs.c.attempt == discarded.c.attempt, jobs.c.status.in_(HELD)
        free = or_(discarded.c.job_id.is_(None), ~exists(select(1).where(*writing)))
        old = discarded.c.created_at <= now() - timedelta(seconds=grace_seconds)
        query = select(discarded.c.uri).where(and_(discarded.c.storage_id == storage_id, free, old))
        with self._database.read() as connection:
            return list(connection.execute(query.order_by(discarded.c.created_at)).scalars())

    def forget(self, uri: str) -> None:
        """It is deleted."""
        with self._database.write() as connection:
            adopt(connection, [uri])


def discard(
    connection: Connection,
    uris: Collection[str],
    storage_id: str | None,
    *,
    job_id: str | None = None,
    attempt: int | None = None,
) -> None:
    adopt(connection, uris)
    who = {"storage_id": storage_id, "job_id": job_id, "attempt": attempt, "created_at": now()}
    if uris:
        connection.execute(insert(discarded), [{"uri": uri, **who} for uri in uris])


def adopt(connection: Connection, uris: Collection[str]) -> None:
    """They have a record now."""
    connection.execute(delete(discarded).where(discarded.c.uri.in_(list(uris))))
