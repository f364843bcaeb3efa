"""A platform runs on while its ledger is migrated: revisions only add, so that the version before works with them, and
no request waits long behind a change of a table."""

from __future__ import annotations

import ast
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic import command
from sqlalchemy import JSON, Boolean, Column, Connection, DateTime, Float, MetaData, Text, delete, insert, select, text

from shared.job import Kind
from shared.store import Store
from shared.store.engine import Database
from shared.store.migrate import FOLDER, LedgerBehind, LedgerBusy, config, lock, migrate, revisions

#: What a revision after the first may do; `execute` fills what it has added.
ADDING = {"add_column", "create_table", "create_index", "execute", "f"}


def calls_of(source: str) -> list[ast.Call]:
    upgrade = next(
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "upgrade"
    )
    return [node for node in ast.walk(upgrade) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("file", sorted((FOLDER / "versions").glob("r*.py")), ids=lambda path: path.stem)
def test_a_revision_only_adds(file: Any) -> None:
    calls = [
        call for call in calls_of(file.read_text())
        if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "op"
    ]  # fmt: skip

    assert {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)} <= ADDING


def upgrade_to(database: Database, revision: str) -> None:
    with database.write() as connection:
        command.upgrade(config(connection), revision)


def tables_of(database: Database) -> MetaData:
    found = MetaData()
    with database.read() as connection:
        found.reflect(connection)
    return found


def something(column: Column[Any]) -> Any:
    """A value of its type; all keys are the same, so that what refers finds what is referred to."""
    kinds: list[tuple[type, Any]] = [
        (DateTime, datetime(2026, 1, 1, tzinfo=UTC)), (Boolean, False), (JSON, {}), (Float, 0.5), (Text, "x"),
    ]  # fmt: skip
    return next((value for kind, value in kinds if isinstance(column.type, kind)), 1)


def test_what_a_version_reads_and_writes_works_on_the_next_ones_tables(empty_url: str) -> None:
    known = list(revisions())[::-1]
    with Store(empty_url) as store:
        upgrade_to(store.database, known[0])
        before = tables_of(store.database)
        for newer in known[1:]:
            upgrade_to(store.database, newer)
            tables = [table for table in before.sorted_tables if table.name != "alembic_version"]
            with store.database.write() as connection:
                for table in tables:
                    row = {column.name: something(column) for column in table.columns}
                    connection.execute(insert(table), row)
                    assert list(connection.execute(select(table)).one()._mapping) == list(row), (newer, table.name)
                for table in reversed(tables):
                    connection.execute(delete(table))
            before = tables_of(store.database)


def test_an_older_version_leaves_the_tables_of_a_newer_one_alone(empty_url: str) -> None:
    with Store(empty_url) as store:
        store.migrate()
        project = store.projects.default()
        with store.database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
            connection.execute(text("ALTER TABLE jobs ADD COLUMN of_tomorrow text"))

        store.migrate()

        assert store.schema().current == "9999" and not store.schema().is_behind
        assert store.jobs.create(project.id, kind=Kind.TRAIN, spec={})


def previous(database: Database) -> None:
    with database.write() as connection:
        command.downgrade(config(connection), "-1")


def test_requests_go_on_while_a_long_transaction_keeps_a_migration_waiting(new_url: Any) -> None:
    with Store(new_url("postgresql")) as store, Store(store_url(store)) as other:
        store.migrate()
        previous(store.database)
        waits: list[float] = []
        done = threading.Event()

        def ask() -> None:
            """As the version before does: it knows nothing of what is added."""
            while not done.is_set():
                began = time.monotonic()
                with other.database.write() as connection:
                    connection.execute(text("SELECT id, name, spec FROM deployments"))
                waits.append(time.monotonic() - began)
                time.sleep(0.01)

        asking = threading.Thread(target=ask)
        reader: Connection
        with store.database.engine.connect() as reader:
            reader.execute(text("SELECT * FROM deployments"))  # and holds the table until it ends
            migrating = threading.Thread(target=migrate, args=(store.database, "host"), kwargs={"lock_seconds": 0.3})
            asking.start()
            migrating.start()
            time.sleep(1.5)
            assert store_is_behind(other)
        migrating.join(30)
        done.set()
        asking.join(30)

        assert not store_is_behind(other)
        assert len(waits) > 10 and max(waits) < 5.0


def store_url(store: Store) -> str:
    return store.database.url.render_as_string(hide_password=False)


def store_is_behind(store: Store) -> bool:
    return store.schema().is_behind


def test_a_table_that_is_never_free_is_told(new_url: Any) -> None:
    with Store(new_url("postgresql")) as store:
        store.migrate()
        previous(store.database)
        with store.database.engine.connect() as reader:
            reader.execute(text("SELECT * FROM deployments"))
            with pytest.raises(LedgerBusy, match="pg_stat_activity"):
                migrate(store.database, "host", lock_seconds=0.1, tries=2)
        assert store_is_behind(store)


def test_who_migrates_waits_for_another_who_does(new_url: Any) -> None:
    with Store(new_url("postgresql")) as store:
        store.migrate()
        with store.database.write() as connection:
            lock(connection, 0.1)
            second = threading.Thread(target=migrate, args=(store.database, "b"), kwargs={"lock_seconds": 0.1})
            second.start()
            second.join(0.5)
            assert second.is_alive()
        second.join(10)
        assert not second.is_alive()


def test_a_service_that_starts_waits_for_whoever_migrates(empty_url: str) -> None:
    with Store(empty_url) as store, Store(empty_url) as other:
        with pytest.raises(LedgerBehind, match="those of nobody"):
            store.await_tables(0.05)
        migrating = threading.Timer(0.3, other.migrate)
        migrating.start()

        store.await_tables(60)

        migrating.join()
        assert not store.schema().is_behind
