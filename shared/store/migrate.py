"""Bringing a ledger's tables up to date: Alembic, run from the program, with no alembic.ini to find or lose.

One transaction for all revisions, one process at a time: services that start together may all call this.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, delete, insert, text

import shared
from shared.store.engine import Database
from shared.store.tables import meta

#: Any number: the lock that migrating processes on one PostgreSQL database wait for.
LOCK = 7_461_120
FOLDER = Path(shared.__file__).parent / "migrations"


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Which tables a ledger has, by their revisions."""

    #: None: none at all.
    current: str | None
    #: What this version works with.
    head: str
    #: Whether this version's tables are not all there. Those of a newer version are: changes only add.
    is_behind: bool


def schema(database: Database) -> Schema:
    with database.read() as connection:
        current = revision(connection)
    head, *older = revisions()
    return Schema(current=current, head=head, is_behind=current is None or current in older)


@cache
def revisions() -> tuple[str, ...]:
    """That this version knows, newest first. Read once: they are files of the program."""
    return tuple(script.revision for script in ScriptDirectory(str(FOLDER)).walk_revisions())


def migrate(database: Database, host: str) -> None:
    write_ahead(database)
    with database.write() as connection:
        lock(connection)
        command.upgrade(config(connection), "head")
        note_host(connection, host)


def lock(connection: Connection) -> None:
    """Be the only one that changes the tables, until the transaction ends. SQLite has one writer anyway."""
    if connection.dialect.name != "sqlite":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


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
