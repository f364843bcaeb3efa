"""Every metric is declared once: what processes tell, what the reference says and what rules ask are the same names."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from ruamel.yaml import YAML

from shared import devices, failures
from shared.metrics import reference
from shared.metrics.counted import Metrics
from shared.metrics.declared import ALL, TABLE
from shared.metrics.ledger import BrokerCollector, LedgerCollector
from shared.metrics.machine import DeviceCollector, DiskCollector
from shared.store import Store

MACHINE = {"devices": [{"id": "cpu", "held_by": {"id": "job"}}]}
ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
#: Of the installation's Prometheus, else where a gateway on this machine shows it.
RUNBOOK = '{{ or $externalLabels.tunesmith_runbook "http://127.0.0.1:8000/runbook" }}'
FIRED = ROOT / "deploy" / "prometheus" / "tests" / "alerts.yml"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)"
)


def test_the_committed_page_is_current() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert page == reference.page(), "run: python -m shared.metrics.reference > docs/metrics.md"


@pytest.mark.parametrize("service", ALL)
def test_a_service_tells_only_what_is_declared_for_it(service: str) -> None:
    registry = CollectorRegistry()
    Metrics(registry, service)
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        assert name.startswith("process_") or (service in TABLE[name].told_by and TABLE[name].type == family.type)


def test_the_first_job_of_a_worker_is_an_increase() -> None:
    """Prometheus sees none in a series that begins with 1."""
    registry = CollectorRegistry()
    Metrics(registry, "trainer")
    page = generate_latest(registry).decode()
    assert 'tunesmith_jobs_finished_total{kind="train",status="failed"} 0.0' in page
    assert 'tunesmith_job_duration_seconds_count{kind="evaluate"} 0.0' in page
    for code in failures.TABLE:
        assert f'tunesmith_jobs_failed_total{{code="{code}",kind="evaluate"}} 0.0' in page


def test_names_follow_the_conventions() -> None:
    for declared in TABLE.values():
        assert declared.doc.endswith(".") and not declared.doc.endswith("..")
        assert (declared.type == "counter") == declared.name.endswith("_total")
        assert declared.type != "histogram" or declared.name.endswith("_seconds")
        assert not declared.name.endswith(("_ms", "_percent", "_gib"))


def test_a_ledger_or_a_broker_that_is_away_is_told_and_costs_no_other_metric(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, "gateway")
    store = Store(f"sqlite:///{tmp_path}/never-migrated.db", metrics.observe_transaction)
    registry.register(LedgerCollector(store))
    registry.register(BrokerCollector(lambda kind: None))
    registry.register(DiskCollector({"run": tmp_path / "not yet made"}))
    generate_latest(registry)

    page = generate_latest(registry).decode()

    assert "tunesmith_ledger_up 0.0" in page and "tunesmith_broker_up 0.0" in page
    assert 'tunesmith_ledger_errors_total{error="OperationalError"} 1.0' in page
    assert 'tunesmith_disk_free_bytes{volume="run"}' in page
    assert "tunesmith_jobs{" not in page


def test_a_beat_that_is_gone_is_told_by_the_ledger(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    store = Store(f"sqlite:///{tmp_path}/ledger.db")
    store.migrate()
    registry.register(LedgerCollector(store))
    assert "tunesmith_sweep_age_seconds +Inf" in generate_latest(registry).decode()
    store.sweeps.note()
    assert registry.get_sample_value("tunesmith_sweep_age_seconds") == pytest.approx(0, abs=20)
    store.close()


def test_devices_are_told_by_the_kinds_of_jobs_that_find_a_worker_there(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    store = Store(f"sqlite:///{tmp_path}/ledger.db")
    store.migrate()
    for host, kinds, held_by in (
        ("trainer-0", ["train", "evaluate"], {"id": "job"}),
        ("export-0", ["export", "push"], None),
        ("inference-0", ["replica"], None),
    ):
        machine = {"devices": [{"id": f"GPU-{host}", "held_by": held_by}]}
        store.workers.beat(
            host, kinds=kinds, host=host, devices=["GPU-1"], storage_id="s", version="1", machine=machine
        )
    registry.register(LedgerCollector(store))

    def idle(kind: str) -> float | None:
        told = {"kind": kind, "type": "gpu", "state": "idle"}
        return registry.get_sample_value("tunesmith_kind_devices", told)

    assert [idle(kind) for kind in ("train", "evaluate", "export", "replica", "generate")] == [0, 0, 1, 1, None]
    of = {"host": "export-0", "type": "gpu", "state": "idle"}
    assert registry.get_sample_value("tunesmith_devices", of) == 1
    store.close()


def test_a_device_is_told_as_held_by_whoever_holds_its_lock(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    registry.register(DeviceCollector(tmp_path, ("GPU-1", "GPU-2")))
    taken = devices.take(tmp_path, ("GPU-2",), 1, {"id": "job-1", "kind": "train"})
    assert isinstance(taken, devices.Taken)

    page = generate_latest(registry).decode()
    taken.close()

    assert 'tunesmith_device_held{device="GPU-1",type="gpu"} 0.0' in page
    assert 'tunesmith_device_held{device="GPU-2",type="gpu"} 1.0' in page
    assert 'tunesmith_device_held{device="GPU-2",type="gpu"} 0.0' in generate_latest(registry).decode()


@needs_promtool
def test_promtool_has_no_complaint_about_any_service(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/ledger.db")
    store.migrate()
    store.jobs.create(store.projects.default().id, kind="train", spec={"schema_version": 1})
    store.workers.beat("w", kinds=["train"], host="h", devices=["cpu"], storage_id="s", version="1", machine=MACHINE)
    for service in ALL:
        registry = CollectorRegistry()
        metrics = Metrics(registry, service)
        metrics.show_training("job", "project", {"loss": 1.0, "step": 1, "total_steps": 2})
        metrics.observe_transaction("read", 0.1, None)
        if service == "gateway":
            registry.register(LedgerCollector(store))
            registry.register(BrokerCollector(lambda kind: 1))
        done = subprocess.run(["promtool", "check", "metrics"], input=generate_latest(registry), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    store.close()


@needs_promtool
def test_every_alert_fires_when_it_should_and_is_silent_when_it_should_not() -> None:
    checked = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    done = subprocess.run(["promtool", "test", "rules", FIRED], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_section_in_the_runbook_and_a_test_of_both_kinds() -> None:
    sections = re.findall(r"^### (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    groups = YAML(typ="safe").load(RULES.read_text())["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    fired = FIRED.read_text()
    assert [alert["alert"] for alert in alerts] == sections
    for alert in alerts:
        name = alert["alert"]
        assert alert["annotations"]["runbook_url"] == f"{RUNBOOK}#{name.lower()}"
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert f"# {name} fires\n" in fired and f"# {name} is silent\n" in fired
