"""Deployment files: every service has its image, every panel and alert asks for a metric that is declared."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

from gateway.admin.services import QUIET
from shared import telemetry

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SERVICES = {"redis", "postgres", "gateway", "trainer", "export", "inference", "beat", "prometheus", "grafana"}


def read_yaml(name: str) -> dict[str, Any]:
    return dict(YAML(typ="safe").load((ROOT / name).read_text()))


def queries() -> list[str]:
    dashboards = (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")
    panels = [panel for path in dashboards for panel in json.loads(path.read_text())["panels"]]
    rules = [rule for group in read_yaml("deploy/prometheus/rules.yml")["groups"] for rule in group["rules"]]
    targets = [target for panel in panels for target in panel.get("targets", [])]
    return [asked["expr"] for asked in (*targets, *rules)]


def declared() -> set[str]:
    """What processes count themselves, and the names in the sources of those that are read at each scrape."""
    registry = CollectorRegistry()
    telemetry.Metrics(registry)
    counted = {metric.name + ("_total" if metric.type == "counter" else "") for metric in registry.collect()}
    sources = [*(ROOT / "shared").glob("*.py"), *(ROOT / "inference_worker").glob("*.py")]
    return counted | {name for path in sources for name in re.findall(r'"(tunesmith_\w+)"', path.read_text())}


def test_compose_has_every_service_and_each_of_ours_an_image_of_its_own() -> None:
    services = read_yaml("compose.yaml")["services"]
    assert services.keys() >= SERVICES
    for name in ("gateway", "trainer", "export", "inference"):
        assert (ROOT / "deploy" / "docker" / f"{name}.Dockerfile").is_file()


def test_every_service_runs_read_only_and_without_capabilities() -> None:
    for name, service in read_yaml("compose.yaml")["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name


def test_no_worker_has_a_heartbeat_that_waits_for_the_broker() -> None:
    images = [path.read_text() for path in sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))]
    composed = [str(service.get("command", "")) for service in read_yaml("compose.yaml")["services"].values()]
    workers = [text for text in (*images, *composed) if "celery" in text and "--pool" in text]
    assert len(workers) >= 4
    for text in workers:
        assert not [option for option in QUIET if option not in text]


def test_compose_passes_its_linter() -> None:
    done = subprocess.run([BIN / "compose-lint", ROOT / "compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile")), ids=lambda path: path.name)
def test_dockerfiles_pass_hadolint(path: Path) -> None:
    config = ROOT / "deploy" / "docker" / "hadolint.yaml"
    done = subprocess.run([BIN / "hadolint", "-c", config, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_panels_and_alerts_ask_for_metrics_that_are_declared() -> None:
    asked = {name for query in queries() for name in re.findall(r"\btunesmith_\w+", query)}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= declared()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)")
def test_promtool_accepts_the_rules() -> None:
    rules = ROOT / "deploy" / "prometheus" / "rules.yml"
    assert subprocess.run(["promtool", "check", "rules", rules], capture_output=True).returncode == 0
