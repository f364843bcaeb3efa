"""Services that start beside the migration of their ledger wait for it; one that is newer than they are will do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text

from shared.store import Store
from shared.store.engine import Database
from shared.store.migrate import config
from shared.store.wait import missing


def test_a_service_waits_until_its_ledger_is_migrated(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    waiting = subprocess.Popen(
        [sys.executable, "-m", "shared.store.wait"],
        env={**os.environ, "TUNESMITH_DATABASE_URL": url},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr is not None
    assert "`tunesmith migrate`" in waiting.stderr.readline()
    with Store(url) as store:
        store.migrate()
    assert waiting.wait(30) == 0


def test_an_older_ledger_is_waited_for_and_a_newer_one_will_do(store: Store) -> None:
    database = store.database
    with database.write() as connection:
        head = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    assert missing(database) is None
    with database.write() as connection:
        command.stamp(config(connection), "0010")
    try:
        assert f"this version wants {head}" in (missing(database) or "")
        with database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert missing(database) is None
    finally:
        with database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": head})


@pytest.mark.parametrize("reach", [True, False])
def test_a_ledger_that_does_not_answer_is_waited_for(reach: bool) -> None:
    database = Database("postgresql://tunesmith@127.0.0.1:9/tunesmith")
    assert "does not answer" in (missing(database, reach=reach) or "")
    database.close()
