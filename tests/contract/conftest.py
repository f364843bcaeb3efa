"""Every test of this folder that asks for `store` runs twice: on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from shared.job import Job, Kind
from shared.records import Claim
from shared.store import Store
from shared.store.tables import metadata
from tests.postgres import NoPostgres, cluster

DATABASES = ["sqlite", "postgresql"]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """One cluster for all tests. Without the binaries the PostgreSQL half is skipped, unless it is required."""
    try:
        with cluster() as url:
            yield url
    except NoPostgres as error:
        if os.environ.get("TUNESMITH_REQUIRE_POSTGRES") == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def migrated_postgres_url(postgres_url: str) -> str:
    with Store(postgres_url) as store:
        store.migrate()
    return postgres_url


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite3"
    with Store(f"sqlite:///{path}") as store:
        store.migrate()
        with store.database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated, empty ledger."""
    if request.param == "sqlite":
        path = tmp_path / "ledger.sqlite3"
        shutil.copy(request.getfixturevalue("migrated_file"), path)
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("migrated_postgres_url")
    with Store(url) as store, store.database.write() as connection:
        names = ", ".join(table.name for table in metadata.sorted_tables if table.name != "meta")
        connection.execute(text(f"TRUNCATE {names}"))
    return url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store(database_url) as store:
        yield store


@pytest.fixture
def project(store: Store) -> str:
    return store.projects.default().id


@pytest.fixture
def other_project(store: Store) -> str:
    return store.projects.create("other").id


@pytest.fixture
def new_job(store: Store, project: str) -> Callable[..., Job]:
    """Make a job: a training of the default project, unless told otherwise."""

    def make(**given: Any) -> Job:
        values = {"project_id": project, "kind": Kind.TRAIN, "spec": {"schema_version": 1, "seed": 7}, **given}
        return store.jobs.create(values.pop("project_id"), **values)[0]

    return make


@pytest.fixture
def claim(store: Store) -> Callable[..., Claim | None]:
    """Look for a job as a worker with one device would, unless told otherwise."""

    def look(**given: Any) -> Claim | None:
        worker = {"worker_id": "w1", "kinds": [Kind.TRAIN], "num_devices": 1, "storage_id": "store-1"}
        return store.attempts.claim_next(**{**worker, **given})

    return look


@pytest.fixture
def running(new_job: Callable[..., Job], claim: Callable[..., Claim | None]) -> Callable[..., Job]:
    """Make a job and claim it."""

    def make(**given: Any) -> Job:
        job = new_job(**given)
        got = claim(kinds=[job.kind])
        assert got is not None and got.job.id == job.id
        return got.job

    return make


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Make a database without any table, of a backend."""
    made: list[str] = []

    def make(backend: str) -> str:
        if backend == "sqlite":
            return f"sqlite:///{tmp_path / 'new' / 'ledger.sqlite3'}"
        made.append(f"new_{len(made)}")
        _on_server(request, f"CREATE DATABASE {made[-1]}")
        url = make_url(request.getfixturevalue("postgres_url")).set(database=made[-1])
        return url.render_as_string(hide_password=False)

    yield make
    for name in made:
        _on_server(request, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=DATABASES)
def empty_url(request: pytest.FixtureRequest, new_url: Callable[[str], str]) -> str:
    """A database without any table."""
    return new_url(request.param)


def _on_server(request: pytest.FixtureRequest, statement: str) -> None:
    with Store(request.getfixturevalue("postgres_url")) as admin:
        server = admin.database.engine.execution_options(isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(text(statement))
