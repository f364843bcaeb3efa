"""/readyz: what a gateway cannot do without, what it only tells, and what to do about both."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gateway.admin.services import WORKERS
from gateway.patience import DRAIN, Drain
from tests.platform import Platform, make_platform


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return make_platform(tmp_path)


def readyz(platform: Platform, **environ: Any) -> tuple[int, dict[str, Any]]:
    answer = platform.client.get("/readyz", environ_overrides=environ)
    return answer.status_code, answer.json


def revised(platform: Platform, revision: str) -> None:
    with platform.store.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_a_gateway_alone_is_ready_and_tells_what_jobs_would_wait_for(platform: Platform) -> None:
    status, found = readyz(platform)
    assert (status, found["status"], found["missing"], found["broker"]) == (200, "ready", {}, False)
    assert list(found["warnings"]) == ["broker", "beat", "workers"]
    assert "Start exactly one beat" in found["warnings"]["beat"]
    assert "train, evaluate, export, push, generate, replica" in found["warnings"]["workers"]


def test_who_beats_is_not_missed_and_who_stopped_is(platform: Platform) -> None:
    platform.store.sweeps.note()
    told = {"host": "h", "devices": [], "storage_id": "s"}
    platform.store.workers.beat("all", kinds=[kind for kind in WORKERS if kind != "export"], version="0.0.9", **told)
    _, found = readyz(platform)
    assert list(found["warnings"]) == ["broker", "workers", "versions"]
    assert found["warnings"]["workers"].startswith("nobody works on export:")
    assert "all 0.0.9" in found["warnings"]["versions"]
    with platform.store.database.write() as connection:
        connection.execute(text("UPDATE meta SET value = '2026-01-01T00:00:00+00:00' WHERE key = 'swept_at'"))
        connection.execute(text("UPDATE workers SET seen_at = '2026-01-01 00:00:00.000000'"))
    _, found = readyz(platform)
    assert list(found["warnings"]) == ["broker", "beat", "workers"] and "evaluate" in found["warnings"]["workers"]


def test_older_tables_are_missing_and_newer_ones_are_only_told(platform: Platform) -> None:
    revised(platform, "0003")
    status, found = readyz(platform)
    assert (status, list(found["missing"])) == (503, ["migrations"])
    assert "0003" in found["missing"]["migrations"] and "tunesmith migrate" in found["missing"]["migrations"]
    revised(platform, "9999")
    status, found = readyz(platform)
    assert (status, found["missing"]) == (200, {})
    assert "9999" in found["warnings"]["schema"]


def test_a_ledger_that_is_gone_or_empty_is_missing(platform: Platform) -> None:
    assert platform.store.database.file is not None
    platform.store.close()
    for kept in platform.store.database.file.parent.glob("ledger.sqlite3*"):
        kept.unlink()
    status, found = readyz(platform)
    assert (status, list(found["missing"])) == (503, ["migrations"])
    platform.store.close()
    platform.store.database.file.unlink()
    platform.store.database.file.mkdir()
    status, found = readyz(platform)
    assert (status, list(found["missing"])) == (503, ["ledger"])


def test_a_storage_that_cannot_be_written_is_missing(platform: Platform) -> None:
    Path(platform.settings.storage_url).write_text("no folder")
    status, found = readyz(platform)
    assert (status, list(found["missing"])) == (503, ["artifacts"])
    Path(platform.settings.storage_url).unlink()
    assert readyz(platform)[0] == 200
    assert [path.name for path in Path(platform.settings.storage_url).iterdir()] == ["storage-id"]


def test_a_gateway_that_shall_end_gets_no_new_requests(platform: Platform) -> None:
    status, found = readyz(platform, **{DRAIN: Drain(ends_at=time.monotonic() + 5)})
    assert (status, found["missing"]) == (503, {"gateway": "this gateway is shutting down"})
    assert readyz(platform, **{DRAIN: Drain()})[0] == 200
