"""The revisions make the tables that the code means, on both databases; and what SQLite needs besides."""

from __future__ import annotations

import platform
import sqlite3
import stat
import threading
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, make_url, text

from gateway.admin.doctor import ledger
from shared.ids import new_id
from shared.job import Kind
from shared.settings import InvalidSetting, Settings
from shared.store import Store
from shared.store.engine import IDLE_TRANSACTION_MS
from shared.store.migrate import config
from shared.store.tables import metadata
from tests.contract.racing import in_threads


def test_the_revisions_make_the_tables_of_the_code(empty_url: str) -> None:
    with Store(empty_url) as store:
        store.migrate()

        with store.database.read() as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            )
            assert compare_metadata(context, metadata) == []


def test_migrating_again_keeps_everything(empty_url: str) -> None:
    with Store(empty_url) as store:
        store.migrate()
        project = store.projects.default()
        job, _ = store.jobs.create(project.id, kind=Kind.TRAIN, spec={"seed": 1})

        store.migrate()

        assert store.projects.list() == [project]
        assert store.jobs.get(project.id, job.id) == job


def test_services_that_start_together_may_all_migrate(empty_url: str) -> None:
    def start(_: int) -> None:
        with Store(empty_url) as store:
            store.migrate()

    in_threads(4, start)

    with Store(empty_url) as store:
        assert [project.name for project in store.projects.list()] == ["default"]


def test_a_downgrade_leaves_nothing_behind(empty_url: str) -> None:
    with Store(empty_url) as store:
        store.migrate()
        with store.database.write() as connection:
            command.downgrade(config(connection), "base")

        with store.database.read() as connection:
            assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
        store.migrate()
        assert store.projects.default()


def test_a_migration_that_fails_changes_nothing(empty_url: str) -> None:
    with Store(empty_url) as store:
        with store.database.write() as connection:
            connection.execute(text("CREATE TABLE workers (id text)"))  # in the way of the first revision

        with pytest.raises(Exception, match="workers"):
            store.migrate()

        with store.database.read() as connection:
            assert inspect(connection).get_table_names() == ["workers"]


def test_an_sqlite_ledger_is_private_and_written_ahead(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.sqlite3"
    with Store(f"sqlite:///{path}") as store:
        store.migrate()

        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == {0o600} and len(list(path.parent.iterdir())) == 3
        with store.database.read() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
    assert pragmas == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_writer_waits_for_another_process_to_be_done(tmp_path: Path, migrated_file: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(migrated_file.read_bytes())
    with Store(f"sqlite:///{path}") as store:
        project = store.projects.default()
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, lambda: other.execute("COMMIT"))
        timer.start()

        job, _ = store.jobs.create(project.id, kind=Kind.TRAIN, spec={})

        timer.join()
        other.close()
        assert store.jobs.get(project.id, job.id) == job


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path, migrated_file: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(migrated_file.read_bytes())
    with Store(f"sqlite:///{path}") as store, store.database.write():
        assert store.projects.default().name == "default"


def test_an_sqlite_ledger_refuses_other_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as store:
        store.migrate()
        store.check_host()

        with monkeypatch.context() as patch:
            patch.setattr(platform, "node", lambda: "another-host")
            with pytest.raises(InvalidSetting, match="another-host"):
                store.check_host()
            store.migrate()  # moved to this host by whoever starts the platform here
            store.check_host()


def test_a_frozen_workers_transaction_is_ended_by_postgresql(migrated_postgres_url: str) -> None:
    with Store(migrated_postgres_url) as store, store.database.read() as connection:
        shown = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()

    assert shown == f"{IDLE_TRANSACTION_MS // 1000}s"
    assert Settings().lease_seconds > IDLE_TRANSACTION_MS / 1000


def test_building_a_store_touches_nothing(tmp_path: Path) -> None:
    Store(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    Store("postgresql://nobody@nowhere.invalid/none")

    assert list(tmp_path.iterdir()) == []


def test_ids_sort_by_age_and_never_repeat() -> None:
    ids = [new_id("ftjob-") for _ in range(2000)]

    assert len(set(ids)) == 2000
    assert {len(made) for made in ids} == {len("ftjob-") + 26}
    assert ids[0][:16] <= ids[-1][:16]
    assert all(made == made.lower() and made.startswith("ftjob-") for made in ids)


def test_a_database_of_another_encoding_is_refused_by_name_and_a_clients_own_is_overruled(
    migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = make_url(migrated_postgres_url)
    with psycopg.connect(host=url.query["host"], user="postgres", autocommit=True) as server:  # type: ignore[arg-type]
        server.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
        try:
            ascii = url.set(database="ascii").render_as_string(hide_password=False)
            with Store(ascii) as store, pytest.raises(InvalidSetting, match=r"'ascii'.*SQL_ASCII.*ENCODING 'UTF8'"):
                store.migrate()
            [found] = ledger.look(Settings(home=tmp_path, database_url=ascii))
            assert found.state == "error" and "SQL_ASCII" in found.told
            good = Settings(home=tmp_path, database_url=migrated_postgres_url)
            assert any(one.name == "connections" and " of the 200 " in one.told for one in ledger.look(good))
        finally:
            server.execute("DROP DATABASE ascii WITH (FORCE)")

    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    with Store(migrated_postgres_url) as store, store.database.read() as connection:
        assert connection.execute(text("SELECT '\u00fc'")).scalar_one() == "\u00fc"
