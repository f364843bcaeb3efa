"""Projects, API keys and workers."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from shared.errors import Conflict, InvalidRequest, NotFound
from shared.store import Store
from shared.store.columns import now
from shared.store.tables import api_keys, workers
from tests.contract.racing import in_threads


def test_a_key_opens_with_its_secret_only(store: Store, project: str) -> None:
    key, secret = store.keys.create(project, "laptop", "user")

    assert secret.startswith("ts-") and len(secret) > 40
    assert store.keys.authenticate(secret) == key
    assert (key.project_id, key.name, key.role, key.revoked_at) == (project, "laptop", "user", None)
    assert secret.startswith(key.prefix)
    for wrong in ("", "ts-", key.prefix, secret[:-1], secret + "x", secret[:-1] + "\0", "\ud800", secret.upper()):
        assert store.keys.authenticate(wrong) is None


def test_the_secret_is_kept_nowhere(store: Store, project: str) -> None:
    _, secret = store.keys.create(project, "laptop", "admin")

    with store.database.read() as connection:
        [row] = connection.execute(select(api_keys)).all()
    assert secret not in repr(row) and secret[15:] not in repr(row)


def test_a_revoked_key_opens_nothing(store: Store, project: str) -> None:
    key, secret = store.keys.create(project, "laptop", "viewer")
    other, other_secret = store.keys.create(project, "desktop", "viewer")

    revoked = store.keys.revoke(project, key.id)

    assert revoked.revoked_at is not None
    assert store.keys.authenticate(secret) is None
    assert store.keys.authenticate(other_secret) == other
    assert store.keys.revoke(project, key.id) == revoked
    assert store.keys.list(project) == [revoked, other]
    assert store.keys.valid([key.id, other.id]) == {other.id: other} and store.keys.valid([]) == {}


def test_an_unknown_role_is_refused(store: Store, project: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        store.keys.create(project, "laptop", "root")
    assert caught.value.field == "role"


def test_another_projects_key_is_not_found(store: Store, project: str, other_project: str) -> None:
    key, secret = store.keys.create(project, "laptop", "admin")

    with pytest.raises(NotFound):
        store.keys.revoke(other_project, key.id)
    assert store.keys.list(other_project) == []
    assert store.keys.authenticate(secret) == key


def test_there_is_one_default_project_whoever_asks_first(store: Store) -> None:
    found = in_threads(6, lambda _: store.projects.default())

    assert len({project.id for project in found}) == 1
    assert store.projects.list() == [found[0]]


def test_a_projects_name_is_used_once(store: Store) -> None:
    store.projects.create("research")

    with pytest.raises(Conflict):
        store.projects.create("research")


def test_a_workers_beat_keeps_its_row_fresh(store: Store) -> None:
    told = {"kinds": ["train"], "host": "h", "devices": ["GPU-1"], "storage_id": "s", "version": "0.1.0"}
    store.workers.beat("w1", **told)
    with store.database.write() as connection:
        connection.execute(update(workers).values(seen_at=now().replace(year=2020)))
    assert store.workers.list()[0].age_seconds > 1e6

    store.workers.beat("w1", **{**told, "devices": ["GPU-1", "GPU-2"]}, labels=["eu"], metrics_url="http://h:9")

    [worker] = store.workers.list()
    assert 0 <= worker.age_seconds < 60
    assert (worker.devices, worker.labels, worker.metrics_url) == (["GPU-1", "GPU-2"], ["eu"], "http://h:9")
    assert worker.started_at < worker.seen_at
    store.workers.remove("w1")
    assert store.workers.list() == []


def test_workers_of_one_id_that_start_at_once_are_one_row(store: Store) -> None:
    told = {"kinds": ["train"], "host": "h", "devices": [], "storage_id": "s", "version": "0.1.0"}

    in_threads(6, lambda _: store.workers.beat("w1", **told))

    assert [worker.id for worker in store.workers.list()] == ["w1"]


def test_a_secret_made_elsewhere_is_taken_over_and_a_weak_one_refused(store: Store) -> None:
    project = store.projects.default()
    secret = "ts-" + "x7" * 20
    store.keys.create(project.id, "prometheus", "viewer", secret=secret)
    key = store.keys.authenticate(secret)
    assert key is not None and (key.name, key.role) == ("prometheus", "viewer")
    for weak in ("ts-short", "x" * 60):
        with pytest.raises(InvalidRequest):
            store.keys.create(project.id, "weak", "admin", secret=weak)


def test_when_beat_last_swept_is_known_to_everybody(store: Store) -> None:
    assert store.sweeps.age_seconds() is None
    store.sweeps.note()
    store.sweeps.note()
    age = store.sweeps.age_seconds()
    assert age is not None and 0 <= age < 60
    assert store.schema().current == store.schema().head and not store.schema().is_behind
