"""What helm makes of the chart, for the tests that read it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
CHECKS = ROOT / ".venvs" / "checks" / "bin"
CHART = ROOT / "deploy" / "helm" / "tunesmith"
VALUES = sorted((ROOT / "deploy" / "helm" / "values").glob("*.yaml"))

needs_helm = pytest.mark.skipif(
    not (CHECKS / "checkov").exists(), reason="helm is not there: `make .venvs/checks/.ready` installs it"
)


def run(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CHECKS / tool, *arguments], capture_output=True, text=True)


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run("helm", "template", "tunesmith", CHART, "--namespace", "models", *arguments)


def read(text: str) -> list[dict[str, Any]]:
    return [found for found in YAML(typ="safe").load_all(text) if found]


def templates(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of what makes each pod, with the pod: its metadata and its spec."""
    for found in manifests:
        name, spec = found["metadata"]["name"], found.get("spec", {})
        if found["kind"] == "Pod":
            yield name, found
        elif found["kind"] == "RayCluster":
            yield f"{name}-head", spec["headGroupSpec"]["template"]
            yield from ((f"{name}-{group['groupName']}", group["template"]) for group in spec["workerGroupSpecs"])
        elif found["kind"] == "CronJob":
            yield name, spec["jobTemplate"]["spec"]["template"]
        elif "template" in spec:
            yield name, spec["template"]


def pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of what makes each pod, with the pod's spec."""
    yield from ((name, pod["spec"]) for name, pod in templates(manifests))


def pod_labels(manifests: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    yield from (pod["metadata"]["labels"] for _, pod in templates(manifests))


def containers(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods(manifests):
        yield from ((name, one) for one in (*pod.get("initContainers", ()), *pod["containers"]))
