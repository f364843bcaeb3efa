"""Deployment files: every service has its image, every panel and alert asks for a metric that is declared."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.admin.services import QUIET
from shared.metrics.declared import TABLE
from shared.settings import Settings

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


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile")), ids=lambda path: path.name)
def test_the_command_in_an_image_starts_with_a_python_that_the_image_has(path: Path) -> None:
    """pip names the one that installed it, which stays behind in another stage."""
    text = path.read_text()
    assert "--target /opt/code" in text
    assert 'sed -i "1s|.*|#!/opt/tunesmith/bin/python3|" /opt/code/bin/tunesmith' in text


@pytest.mark.parametrize("name", ["trainer", "export"])
def test_ray_is_found_by_its_name_alone_in_images_that_have_it(name: str) -> None:
    """KubeRay starts a cluster's nodes so; its shell may be a login shell, which knows a few folders only."""
    text = (ROOT / "deploy" / "docker" / f"{name}.Dockerfile").read_text()
    assert "ln -s /opt/trainer/bin/ray /usr/local/bin/ray\n" in text.rpartition("\nFROM ")[2]


def test_every_variable_in_compose_is_a_setting_and_none_holds_a_secret() -> None:
    known = {f"TUNESMITH_{field.name.upper()}": field for field in dataclasses.fields(Settings)}
    for name, service in read_yaml("compose.yaml")["services"].items():
        for variable in (key for key in service.get("environment", {}) if key.startswith("TUNESMITH_")):
            assert variable.removesuffix("_FILE") in known, (name, variable)
            assert variable.endswith("_FILE") or known[variable].repr, (name, variable)
            assert variable not in ("TUNESMITH_DATABASE_URL", "TUNESMITH_BROKER_URL"), name


def test_what_restarts_says_when_it_is_healthy_and_how_much_it_may_take() -> None:
    for name, service in read_yaml("compose.yaml")["services"].items():
        if service["restart"] == "no":
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        assert "mem_limit" in service or "memory" in limits, name
        assert "pids_limit" in service or "pids" in limits, name


def test_images_that_compose_builds_say_of_which_commit_they_are() -> None:
    told = {"REVISION", "CREATED", "SOURCE"}
    built = [service["build"] for service in read_yaml("compose.yaml")["services"].values() if "build" in service]
    assert len(built) >= 7
    for build in built:
        # Without a value here: that of the environment, else the Dockerfile's.
        assert {name for name, value in build["args"].items() if value is None} >= told
        text = (ROOT / build["dockerfile"]).read_text()
        assert all(f"\nARG {name}" in text for name in build["args"]), build["dockerfile"]


def test_workers_on_cpus_and_on_gpus_have_the_names_that_prometheus_asks_for() -> None:
    services = read_yaml("compose.yaml")["services"]
    workers = next(job for job in read_yaml("deploy/prometheus/prometheus.yml")["scrape_configs"] if "dns" in str(job))
    for name in workers["dns_sd_configs"][0]["names"]:
        assert name in services
        if services[name].get("profiles") == ["cpu"]:
            assert name in services[f"{name}-gpu"]["networks"]["inner"]["aliases"]
            assert services[f"{name}-gpu"]["profiles"] == ["gpu"]


def test_secrets_are_made_once_and_their_folder_is_closed_to_others(tmp_path: Path) -> None:
    script = tmp_path / "deploy" / "make-secrets"
    script.parent.mkdir()
    shutil.copy(ROOT / "deploy" / "make-secrets", script)
    subprocess.run([script], check=True, capture_output=True)
    folder = script.parent / "secrets"
    made = {path.name: path.read_text() for path in [*folder.iterdir(), tmp_path / ".env"]}
    subprocess.run([script], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in [*folder.iterdir(), tmp_path / ".env"]} == made
    assert made.keys() - {".env"} == read_yaml("compose.yaml")["secrets"].keys()
    assert made["postgres_password"] in made["database_url"] and len(made["postgres_password"]) >= 40
    assert folder.stat().st_mode & 0o077 == 0
    assert "\nCOMPOSE_PROFILES=cpu\n" in made[".env"]


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
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= TABLE.keys()


def test_images_have_the_stages_that_they_share_in_the_same_words() -> None:
    """Another word would be another layer, built and kept once more."""
    images = {
        path.name.partition(".")[0]: path.read_text() for path in (ROOT / "deploy" / "docker").glob("*.Dockerfile")
    }
    shared = {text[text.index("ARG BASE_IMAGE=") : text.index("--target /opt/code .")] for text in images.values()}
    heavy = {text[text.index("AS heavy") : text.index("\nCMD [")] for text in (images["trainer"], images["export"])}
    assert len(shared) == len(heavy) == 1


def test_images_run_as_another_user_than_root_and_tell_their_health() -> None:
    for path in (ROOT / "deploy" / "docker").glob("*.Dockerfile"):
        final = path.read_text().rpartition("\nFROM ")[2]
        assert re.findall(r"^USER (.+)$", final, re.M) == ["10001"], path.name
        assert "\nHEALTHCHECK " in final and "org.opencontainers.image.revision" in final, path.name
        assert not re.search(r"\bpip install\b", final), path.name
