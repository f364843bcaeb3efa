"""/metrics while the ledger is away: what happens then is what it is there for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url

from gateway.scrapers import REMEMBER_SECONDS, Scrapers
from shared.errors import Unavailable
from shared.metrics.impatient import WAIT_SECONDS, Impatient
from tests.platform import Platform, make_platform
from tests.postgres import NoPostgres, cluster

#: Prometheus gives up after it.
SCRAPE_SECONDS = 10.0


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return make_platform(tmp_path)


@contextmanager
def taken_away(platform: Platform) -> Iterator[None]:
    """The SQLite ledger, until the block ends."""
    file = platform.store.database.file
    assert file is not None
    platform.store.close()
    kept = [path.rename(path.with_suffix(".kept" + path.suffix)) for path in file.parent.glob("ledger.sqlite3*")]
    file.mkdir()
    yield
    file.rmdir()
    for path in kept:
        path.rename(path.with_name(path.name.replace(".kept", "")))


def scrape(platform: Platform, role: str = "viewer") -> tuple[int, list[str], float]:
    began = time.monotonic()
    answer = platform.get("/metrics", role)
    return answer.status_code, answer.text.splitlines(), time.monotonic() - began


def assert_told_as_away(platform: Platform) -> float:
    """How long the scrape took, seconds."""
    status, lines, seconds = scrape(platform)
    assert status == 200 and "tunesmith_ledger_up 0.0" in lines and "tunesmith_broker_up 0.0" in lines
    assert any(line.startswith('tunesmith_http_requests_total{method="GET",route="/v1/jobs"') for line in lines)
    assert seconds < SCRAPE_SECONDS
    return seconds


def test_a_key_that_scraped_before_is_told_that_the_ledger_is_away_and_all_that_was_counted(platform: Platform) -> None:
    scrape(platform)
    platform.get("/v1/jobs")
    with taken_away(platform):
        assert_told_as_away(platform)
    _, lines, _ = scrape(platform)
    assert "tunesmith_ledger_up 1.0" in lines


def test_while_the_ledger_is_away_that_key_opens_nothing_else_and_no_other_key_opens_metrics(
    platform: Platform,
) -> None:
    scrape(platform)
    with taken_away(platform):
        assert platform.get("/v1/jobs", "viewer").status_code >= 500
        assert platform.get("/metrics", "user").status_code == 503
        assert platform.client.get("/metrics").status_code == 401


def test_a_revoked_key_that_the_ledger_refused_is_forgotten(platform: Platform) -> None:
    scrape(platform)
    project = platform.store.projects.default().id
    (key,) = (key for key in platform.store.keys.list(project) if key.role == "viewer")
    platform.store.keys.revoke(project, key.id)
    assert scrape(platform)[0] == 401
    with taken_away(platform):
        assert scrape(platform)[0] == 503


def test_a_key_of_another_project_is_told_no_names_while_the_ledger_is_away_either(platform: Platform) -> None:
    other = platform.store.projects.create("other")
    platform.keys["other"] = platform.store.keys.create(other.id, "other", "viewer")[1]
    platform.app.extensions["tunesmith"].metrics.answers.labels("secret-model", "answered").inc()
    assert scrape(platform, "other")[0] == scrape(platform)[0] == 200
    with taken_away(platform):
        assert "secret-model" not in "".join(scrape(platform, "other")[1])
        assert "secret-model" in "".join(scrape(platform)[1])


def test_a_key_is_remembered_for_no_longer_than_an_hour(platform: Platform) -> None:
    now = 0.0
    scrapers = Scrapers(platform.store, Impatient(), clock=lambda: now)
    assert scrapers.authenticate(platform.keys["viewer"]) is not None
    with taken_away(platform):
        now = REMEMBER_SECONDS - 1
        assert scrapers.authenticate(platform.keys["viewer"]) is not None
        now = REMEMBER_SECONDS
        with pytest.raises(Unavailable):
            scrapers.authenticate(platform.keys["viewer"])


def test_a_postgresql_that_hangs_or_was_killed_costs_no_scrape(tmp_path: Path) -> None:
    try:
        with cluster() as url:
            platform = make_platform(tmp_path, database_url=url)
            assert "tunesmith_ledger_up 1.0" in scrape(platform)[1]
            platform.get("/v1/jobs")
            server = int((Path(str(make_url(url).query["host"])) / "data" / "postmaster.pid").read_text().split()[0])
            platform.store.close()  # its connections: a new one is what hangs
            os.kill(server, signal.SIGSTOP)
            try:
                assert_told_as_away(platform)
                assert assert_told_as_away(platform) < WAIT_SECONDS
            finally:
                os.kill(server, signal.SIGCONT)
            os.kill(server, signal.SIGQUIT)
            assert_told_as_away(platform)
    except NoPostgres as error:
        pytest.skip(str(error))
