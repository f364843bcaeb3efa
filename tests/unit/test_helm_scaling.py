"""How pools of the chart follow the queue: what KEDA and the recording rule ask, on series as Prometheus has them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.unit.charted import helm, needs_helm, read

pytestmark = needs_helm
KEDA = "metrics.prometheusAddress=http://p:9090,workers.trainer.autoscaling.kind=keda"
HPA = "workers.trainer.autoscaling.kind=hpa"
#: (kind, class of priority) -> jobs that wait. A gateway tells every pair, of which these are some.
WAITING = {("train", "normal"): 3, ("train", "high"): 1, ("evaluate", "normal"): 1, ("export", "normal"): 50}
RUNNING = {("train", "running"): 5, ("evaluate", "pausing"): 1, ("train", "succeeded"): 70, ("export", "running"): 9}


def made(kind: str, *given: str) -> dict[str, Any]:
    [found] = [one for one in read(helm("--set", ",".join(given)).stdout) if one["kind"] == kind]
    return dict(found["spec"])


def series(gateway: str, waiting: dict[tuple[str, str], int], running: dict[tuple[str, str], int], values: str) -> Any:
    """What one gateway tells, each value with `values` behind it, and a namesake in another namespace."""

    def one(name: str, number: int, **labels: str) -> dict[str, str]:
        written = ",".join(f'{label}="{value}"' for label, value in {"instance": gateway, **labels}.items())
        return {"series": f"{name}{{{written}}}", "values": f"{number}{values}"}

    depth, jobs, here = "tunesmith_queue_depth", "tunesmith_jobs", {"namespace": "models"}
    return [
        *(one(depth, number, kind=kind, priority=name, **here) for (kind, name), number in waiting.items()),
        *(one(jobs, number, kind=kind, status=status, **here) for (kind, status), number in running.items()),
        one(depth, 40, kind="train", priority="low", namespace="other"),
    ]


def asked(folder: Path, query: str, told: Any, samples: dict[str, float | None]) -> str:
    """What promtool complains of where the query does not give the samples; None: nothing at all."""
    tests = [
        {"expr": query, "eval_time": at, "exp_samples": [] if value is None else [{"labels": "{}", "value": value}]}
        for at, value in samples.items()
    ]
    file = folder / "scaling.yml"
    whole = {"rule_files": [], "evaluation_interval": "1m"}
    with file.open("w") as opened:
        YAML().dump(whole | {"tests": [{"interval": "1m", "input_series": told, "promql_expr_test": tests}]}, opened)
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture
def query() -> str:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    return str(made("ScaledObject", KEDA)["triggers"][0]["metadata"]["query"])


def test_a_pool_has_one_worker_for_each_job_however_many_gateways_tell_of_it(query: str, tmp_path: Path) -> None:
    told = [*series("a", WAITING, RUNNING, "x60"), *series("b", WAITING, RUNNING, "x60")]
    assert asked(tmp_path, query, told, {"5m": 11}) == ""


def test_a_status_that_no_job_has_counts_as_none(query: str, tmp_path: Path) -> None:
    assert asked(tmp_path, query, series("a", WAITING, {("train", "succeeded"): 70}, "x60"), {"5m": 5}) == ""
    idle = dict.fromkeys(WAITING, 0)
    assert asked(tmp_path, query, series("a", idle, {}, "x60"), {"5m": 0}) == ""


def test_what_no_gateway_tells_is_unknown_and_not_zero(query: str, tmp_path: Path) -> None:
    """Zero would end workers in the middle of their jobs."""
    told = series("a", WAITING, RUNNING, "x10 stale")
    assert asked(tmp_path, query, told, {"5m": 11, "12m": None, "40m": None}) == ""
    assert asked(tmp_path, query, [], {"5m": None}) == ""
    other = [*told, *series("b", WAITING, RUNNING, "x60")]
    assert asked(tmp_path, query, other, {"40m": 11}) == ""


def test_an_autoscaler_takes_no_answer_for_an_error_and_counts_replicas_itself() -> None:
    trigger = made("ScaledObject", KEDA)["triggers"][0]["metadata"]
    assert trigger["ignoreNullValues"] == "false"
    [rule] = made("PrometheusRule", HPA)["groups"][0]["rules"]
    assert (rule["record"], rule["expr"]) == ("tunesmith_jobs_wanted", trigger["query"])
    [metric] = made("HorizontalPodAutoscaler", HPA)["metrics"]
    assert metric["external"]["metric"]["selector"] == {"matchLabels": {"pool": "tunesmith-trainer"}}
    for given in (KEDA, HPA):
        found = read(helm("--set", given).stdout)
        [pool] = [
            one for one in found if one["kind"] == "StatefulSet" and one["metadata"]["name"] == "tunesmith-trainer"
        ]
        assert "replicas" not in pool["spec"]
