"""The Prometheus configuration that `tunesmith up` writes: the deployed one, at this machine's addresses."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.admin import monitoring
from gateway.admin.services import WITH_METRICS
from shared.settings import Settings
from shared.store import Store

PORTS = {name: port for port, name in enumerate(WITH_METRICS, 9001)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(Settings(home=tmp_path).database_url)
    store.migrate()
    return store


def load(path: Path) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(path.read_text()))


def written(home: Path, store: Store) -> dict[str, Any]:
    path = monitoring.write(Settings(home=home), store, PORTS)
    assert path is not None
    return load(path)


def test_every_process_is_scraped_and_nothing_else_differs_from_the_containers(tmp_path: Path, store: Store) -> None:
    local, deployed = written(tmp_path, store), load(monitoring.DEPLOYED / monitoring.CONFIG)
    assert [scrape["job_name"] for scrape in local["scrape_configs"]] == [
        scrape["job_name"] for scrape in deployed["scrape_configs"]
    ]
    targets = [target for s in local["scrape_configs"] for group in s["static_configs"] for target in group["targets"]]
    assert sorted(targets) == sorted(["127.0.0.1:8000", *(f"127.0.0.1:{port}" for port in PORTS.values())])
    assert local["global"]["external_labels"] == {"tunesmith_runbook": "http://127.0.0.1:8000/runbook"}
    assert local["global"].keys() == deployed["global"].keys()
    assert local["global"]["evaluation_interval"] == deployed["global"]["evaluation_interval"]
    assert all(Path(file).is_file() for file in local["rule_files"]) and local["rule_files"]


def test_its_key_only_reads_is_for_this_user_alone_and_stays(tmp_path: Path, store: Store) -> None:
    written(tmp_path, store)
    file = tmp_path / "prometheus" / "key"
    secret = file.read_text()
    key = store.keys.authenticate(secret)
    assert key is not None and key.role == "viewer"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written(tmp_path, store)
    assert file.read_text() == secret and len(store.keys.list(key.project_id)) == 1


def test_a_revoked_key_is_replaced(tmp_path: Path, store: Store) -> None:
    written(tmp_path, store)
    file = tmp_path / "prometheus" / "key"
    first = store.keys.authenticate(file.read_text())
    assert first is not None
    store.keys.revoke(first.project_id, first.id)
    written(tmp_path, store)
    second = store.keys.authenticate(file.read_text())
    assert second is not None and second.id != first.id


def test_an_installation_without_the_deployed_files_goes_without(tmp_path: Path, store: Store) -> None:
    assert monitoring.write(Settings(home=tmp_path), store, PORTS, deployed=tmp_path / "none") is None
    assert not (tmp_path / "prometheus").exists()
