"""A real Prometheus for tests, and what our dashboards and rules ask of it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import promql_parser
from ruamel.yaml import YAML

from tests.platform import free_port, wait_until

ROOT = Path(__file__).resolve().parents[1]
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
#: What Grafana puts in for its own variables, at the width of a test; a choice of the user's is everything.
GRAFANA = {"$__rate_interval": "1m", "$__interval": "5s", "$__range": "10m"}
#: Seconds between two points.
STEP = 5
#: What stays empty on a machine without GPU, and why. A part of the name of the metric that is missing.
EMPTY = {
    "code) (increase(tunesmith_jobs_failed_total": "no job failed",
    "tunesmith_backup_age_seconds": "no backup was made",
    "tunesmith_gpu_": "nvidia-smi tells it: a machine without GPU has none",
    "tunesmith_job_retries_total": "no attempt failed in a way that is tried again by itself",
    "tunesmith_replica_failures_total": "no replica failed",
    "tunesmith_training_mfu": "only where the peak of the device is known: of GPUs",
}


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    #: One for all questions: to make one takes longer than an answer.
    client: httpx.Client
    began: float

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", (parameters, answer.get("error"))
        return answer["data"]

    def has_data(self, expr: str) -> bool:
        """Whether it gave a number at any time."""
        told = self.get("query_range", query=expr, start=self.began, end=time.time(), step=STEP)["result"]
        return any(value != "NaN" for series in told for _, value in series["values"])


@contextlib.contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[Prometheus]:
    """One that scrapes every second what the configuration names; ready when it has all of it."""
    yaml = YAML(typ="safe")
    changed = yaml.load(config.read_text())
    changed["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
    folder.mkdir()
    with (folder / "prometheus.yml").open("w") as file:
        yaml.dump(changed, file)
    address = f"127.0.0.1:{free_port()}"
    arguments = ("--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}")
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(["prometheus", *arguments], cwd=folder, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
            wait_until(lambda: _is_ready(client), 30, "Prometheus is ready")
            yield Prometheus(client=client, began=time.time())
    finally:
        process.terminate()
        process.wait(20)


def is_installed() -> bool:
    return shutil.which("prometheus") is not None


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """By dashboard; the headings are none."""
    for path in DASHBOARDS:
        yield from ((path.stem, panel) for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row")


def panel_queries() -> dict[str, str]:
    """As Grafana sends them when everything is chosen, by dashboard, panel and letter."""
    return {
        f"{board} / {panel['title']} / {target['refId']}": substitute(target["expr"])
        for board, panel in panels()
        for target in panel["targets"]
    }


def substitute(expr: str) -> str:
    for name, value in GRAFANA.items():
        expr = expr.replace(name, value)
    return re.sub(r"\$\w+", ".*", expr)


def rules(prometheus: Prometheus) -> Iterator[dict[str, Any]]:
    for group in prometheus.get("rules")["groups"]:
        yield from group["rules"]


def failed_rules(prometheus: Prometheus) -> list[str]:
    return [f"{rule['name']}: {rule['lastError']}" for rule in rules(prometheus) if rule.get("lastError")]


def inputs(expr: str) -> set[str]:
    """The metrics that an expression reads, with the labels that it asks for whatever their values: there may rightly
    be no request that failed, but its status must be told."""
    found: set[str] = set()

    def note(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            labels = sorted({matcher.name for matcher in node.matchers.matchers})
            told = ", ".join(f'{label}!=""' for label in labels)
            found.add(f"{node.name}{{{told}}}")

    promql_parser.walk(promql_parser.parse(expr), note)
    return found


def unanswered(prometheus: Prometheus) -> dict[str, str]:
    """Queries of panels and recording rules that gave no number, and series that alerts read and nobody has.

    An alert is rightly empty while all is well: what counts is that what it reads is there.
    """
    asked = panel_queries()
    for rule in rules(prometheus):
        if rule["type"] == "recording":
            asked[f"rule {rule['name']} = {rule['query']}"] = rule["query"]
        else:
            asked |= {f"alert {rule['name']} reads {one}": one for one in inputs(rule["query"])}
    excused = {name for name, expr in asked.items() if any(part in expr for part in EMPTY)}
    return {name: expr for name, expr in asked.items() if name not in excused and not prometheus.has_data(expr)}


def _is_ready(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/-/ready").status_code == 200
    return False
