"""The chart on a real cluster: admitted, installed; a training in pods outlives an upgrade and the loss of its pod.

`make cluster-test TUNESMITH_TEST_KUBECONFIG=~/.kube/config`; skipped where no cluster is named.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.cli.client import Client
from shared import interpreters
from shared.settings import Settings
from tests.cluster.cluster import CHART, RELEASE, ROOT, TRIAL, VALUES, Cluster
from tests.compose.work import ROW, TRAINING
from tests.platform import jsonl, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if not (kubeconfig := os.environ.get("TUNESMITH_TEST_KUBECONFIG")):
        pytest.skip("TUNESMITH_TEST_KUBECONFIG names no cluster (see docs/kubernetes.md)")
    cluster = Cluster(kubeconfig)
    cluster.open()
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def release(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The release, with a tiny model and a dataset."""
    cluster.helm("install", RELEASE, str(CHART), *TRIAL)
    cluster.settle()
    folder = tmp_path_factory.mktemp("models") / "tiny"
    code = (
        "import sys; from pathlib import Path; from tests.child.export_fixtures import llama; "
        "llama(Path(sys.argv[1]), hidden_size=128, intermediate_size=256, max_position_embeddings=1024)"
    )
    trainer = interpreters.trainer(Settings())
    subprocess.run([trainer, "-c", code, str(folder)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    rows = tmp_path_factory.mktemp("rows") / "answers.jsonl"
    rows.write_bytes(jsonl([ROW] * 32))
    with cluster.client() as client:
        client.upload_folder("/v1/models", {path.name: path for path in folder.iterdir()}, {"name": "tiny"})
        client.upload("/v1/datasets", rows, {"name": "answers"})


@pytest.mark.parametrize("values", [None, *sorted(path.name for path in VALUES.glob("*.yaml"))])
def test_the_server_admits_everything_that_the_chart_makes(cluster: Cluster, values: str | None) -> None:
    objects = cluster.rendered(*(("--values", str(VALUES / values)) if values else ()))
    unknown = {each["kind"] for each in objects} - cluster.kinds()

    told = cluster.apply([each for each in objects if each["kind"] not in unknown])

    assert len(told.splitlines()) == len([each for each in objects if each["kind"] not in unknown])
    if unknown:
        pytest.skip(f"the rest is admitted; this cluster does not know {', '.join(sorted(unknown))}")


@pytest.mark.usefixtures("release")
def test_a_training_runs_in_pods_and_its_adapter_is_merged(cluster: Cluster) -> None:
    with cluster.client() as client:
        trained = until(client, post(client, kind="train", **TRAINING, max_steps=40), "succeeded")
        adapter = str(trained["model"])
        exported = post(client, kind="export", model_name_or_path=adapter, export_format="merged")
        merged = client.get(f"/v1/models/{until(client, exported, 'succeeded')['model']}")

    assert trained["progress"]["step"] == 40
    assert (merged["kind"], merged["base_model"]) == ("merged", "tiny")


@pytest.mark.usefixtures("release")
def test_an_upgrade_lets_a_running_training_write_its_checkpoint_and_go_on(cluster: Cluster) -> None:
    with cluster.client() as client:
        job_id = post(client, kind="train", **TRAINING, max_steps=1500)
        reached = until_past(client, job_id, 60)

    cluster.helm("upgrade", RELEASE, str(CHART), *TRIAL, "--set", "settings.log_level=DEBUG")
    cluster.settle()

    with cluster.client() as client:
        until(client, job_id, "succeeded", 900)
        losses = measured(client, job_id)
    assert {event["attempt"] for event in losses} == {1, 2}
    again = min(event["data"]["step"] for event in losses if event["attempt"] == 2)
    # It paused: what it wrote on SIGTERM is newer than the last checkpoint by save_steps.
    assert again > reached
    # Beside every tenth step that at which it stopped.
    steps = [event["data"]["step"] for event in losses]
    assert steps == sorted(set(steps)) and set(steps) >= set(range(10, 1501, 10))


@pytest.mark.usefixtures("release")
def test_a_training_whose_pod_is_lost_goes_on_from_its_last_checkpoint(cluster: Cluster) -> None:
    with cluster.client() as client:
        job_id = post(client, kind="train", **TRAINING, max_steps=600)
        until_past(client, job_id, 120)
        cluster.kubectl("delete", "pod", f"{RELEASE}-trainer-0", "--grace-period=0", "--force")
        until(client, job_id, "succeeded", 900)
        losses = measured(client, job_id)

    assert max(event["attempt"] for event in losses) == 2
    assert min(event["data"]["step"] for event in losses if event["attempt"] == 2) > 100
    assert {event["data"]["step"] for event in losses} >= set(range(10, 601, 10))


@pytest.mark.usefixtures("release")
def test_only_what_is_named_reaches_redis(cluster: Cluster) -> None:
    code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
    beat = f"deploy/{RELEASE}-beat"
    cluster.kubectl("exec", beat, "-c", "beat", "--", "python3", "-c", code, f"{RELEASE}-redis", "6379")
    image = cluster.get("deploy", f"{RELEASE}-gateway")["spec"]["template"]["spec"]["containers"][0]["image"]
    stranger = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stranger"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "stranger",
                    "image": image,
                    "command": ["python3", "-c", code, f"{RELEASE}-redis", "6379"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    cluster.kubectl("create", "-f", "-", input=json.dumps(stranger))
    ended = wait_until(
        lambda: (phase := cluster.get("pod", "stranger")["status"]["phase"]) in ("Failed", "Succeeded") and phase,
        120,
        "the stranger has tried",
    )
    assert ended == "Failed", "this cluster's network enforces no NetworkPolicy"


def post(client: Client, **fields: Any) -> str:
    return str(client.post("/v1/jobs", fields)["id"])


def until(client: Client, job_id: str, status: str, seconds: float = 600) -> dict[str, Any]:
    def arrived() -> dict[str, Any] | None:
        job = dict(client.get(f"/v1/jobs/{job_id}"))
        assert job["status"] == status or job["status"] not in ("failed", "cancelled"), job["error"]
        return job if job["status"] == status else None

    return dict(wait_until(arrived, seconds, f"{job_id} has {status}"))


def until_past(client: Client, job_id: str, step: int) -> int:
    def past() -> int | None:
        now = int(client.get(f"/v1/jobs/{job_id}")["progress"].get("step", 0))
        return now if now > step else None

    return int(wait_until(past, 300, f"{job_id} is past step {step}"))


def measured(client: Client, job_id: str) -> list[dict[str, Any]]:
    """Every loss that a job has told, in order; no event is missing."""
    found: list[dict[str, Any]] = []
    after, has_more = 0, True
    while has_more:
        page = client.get(f"/v1/jobs/{job_id}/events", after=after, limit=1000)
        numbers = [event["number"] for event in page["data"]]
        assert numbers == list(range(after + 1, after + 1 + len(numbers)))
        found += [event for event in page["data"] if event["type"] == "metrics" and "loss" in event["data"]]
        after, has_more = after + len(numbers), page["has_more"]
    return found
