"""Bringing a ledger's tables up to date: Alembic, run from the program, with no alembic.ini to find or lose.

One transaction for all revisions, one process at a time: services that start together may all call this. The platform
runs on meanwhile. So a revision only adds: tables, indexes, and columns that may be NULL or have a default of the
server; what the version before reads and writes stays as it is, and goes in a later release, when no version that is
still in use knows it (tests/contract/test_upgrade.py holds revisions to that). And it waits for no long transaction
while others wait behind it: a table that is not free within LOCK_SECONDS is asked for again a little later.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, delete, insert, text
from sqlalchemy.exc import OperationalError

import shared
from shared.errors import TunesmithError
from shared.store.engine import Database
from shared.store.tables import meta

log = logging.getLogger(__name__)

#: Any number: the lock that migrating processes on one PostgreSQL database wait for.
LOCK = 7_461_120
#: How long a table is waited for, and how often. Requests wait as long at most.
LOCK_SECONDS = 2.0
TRIES = 30
#: How long another process may take to migrate, seconds.
OTHERS_SECONDS = 600
#: PostgreSQL's code of a lock that was not free in time.
LOCK_NOT_AVAILABLE = "55P03"
FOLDER = Path(shared.__file__).parent / "migrations"


class LedgerBusy(TunesmithError):
    """The ledger cannot be migrated now."""


class LedgerBehind(TunesmithError):
    """The ledger's tables are not this version's yet."""


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Which tables a ledger has, by their revisions."""

    #: None: none at all.
    current: str | None
    #: What this version works with.
    head: str
    #: Whether this version's tables are not all there. Those of a newer version are: changes only add.
    is_behind: bool

    @property
    def lacks(self) -> str:
        """What is to be done where they are behind, as a sentence."""
        return f"the ledger's tables are those of {self.current or 'nobody'}, not {self.head}: run `tunesmith migrate`"


def schema(database: Database) -> Schema:
    with database.read() as connection:
        current = revision(connection)
    head, *older = revisions()
    return Schema(current=current, head=head, is_behind=current is None or current in older)


@cache
def revisions() -> tuple[str, ...]:
    """That this version knows, newest first. Read once: they are files of the program."""
    return tuple(script.revision for script in ScriptDirectory(str(FOLDER)).walk_revisions())


def migrate(database: Database, host: str, *, lock_seconds: float = LOCK_SECONDS, tries: int = TRIES) -> None:
    """To this version's tables; those of a newer version stay, which this one works with. Raises LedgerBusy."""
    write_ahead(database)
    for _ in range(tries):
        try:
            with database.write() as connection:
                lock(connection, lock_seconds)
                if revision(connection) in (None, *revisions()):
                    command.upgrade(config(connection), "head")
                note_host(connection, host)
            return
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            log.warning("A table of the ledger is in use; migrating is tried again")
            time.sleep(lock_seconds)
    raise LedgerBusy(
        f"a table of the ledger was in use each of {tries} times: end the long transaction (pg_stat_activity shows it) "
        "and run `tunesmith migrate` again; nothing was changed"
    )


def lock(connection: Connection, seconds: float = LOCK_SECONDS) -> None:
    """Be the only one that changes the tables, until the transaction ends. SQLite has one writer anyway.

    Others that migrate are waited for; tables for `seconds` only, as requests wait behind who waits for a table.
    """
    if connection.dialect.name == "sqlite":
        return
    connection.execute(text(f"SET LOCAL lock_timeout = {OTHERS_SECONDS * 1000}"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    connection.execute(text(f"SET LOCAL lock_timeout = {int(seconds * 1000)}"))


def note_host(connection: Connection, host: str) -> None:
    connection.execute(delete(meta).where(meta.c.key == "host"))
    connection.execute(insert(meta).values(key="host", value=host))


def revision(connection: Connection) -> str | None:
    """Of the tables that are there; None: there are none."""
    return MigrationContext.configure(connection).get_current_revision()


def config(connection: Connection) -> Config:
    """Alembic's settings, for the migrations to run in the connection's transaction."""
    made = Config()
    made.set_main_option("script_location", _escaped(FOLDER))
    made.attributes["connection"] = connection
    return made


def _escaped(folder: Path) -> str:
    return str(folder).replace("%", "%%")


def write_ahead(database: Database) -> None:
    """WAL, so that readers and the writer do not wait for each other. The file remembers it."""
    if database.file is None:
        return
    with database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA journal_mode = WAL")
