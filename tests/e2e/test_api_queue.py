"""Priorities, requirements, positions and workers through the API: what users see of the queue."""

from __future__ import annotations

import io
from typing import Any

import pytest

from shared import catalog
from shared.job import Kind
from shared.requirements import Device
from tests.platform import ROWS, Platform, jsonl, make_platform

GOOD = {"model_name_or_path": "tiny", "dataset": "sums", "template": "qwen"}
A100 = [Device(id=f"GPU-{number}", kind="NVIDIA A100-SXM4-80GB", memory_gib=79.2) for number in range(2)]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = make_platform(tmp_path_factory.mktemp("queue"))
    file = (io.BytesIO(jsonl(ROWS)), "sums.jsonl")
    answer = made.client.post("/v1/datasets", data={"file": file, "name": "sums"}, headers=made.headers())
    assert answer.status_code == 201, answer.get_json()
    return made


def post(platform: Platform, body: dict[str, Any], role: str = "admin") -> dict[str, Any]:
    answer = platform.post("/v1/jobs", body, role=role)
    assert answer.status_code == 201, answer.get_json()
    return dict(answer.get_json())


def beat(platform: Platform, worker_id: str, holder: dict[str, str] | None = None) -> None:
    devices = [{**vars(device), "held_by": holder} for device in A100]
    platform.store.workers.beat(
        worker_id, kinds=["train"], host=worker_id, devices=[device.id for device in A100], storage_id="s", version="1",
        labels=["eu"], machine={"devices": devices},
    )  # fmt: skip


def warnings(platform: Platform, job: dict[str, Any]) -> dict[str, str]:
    events = platform.get(f"/v1/jobs/{job['id']}/events").get_json()["data"]
    return {event["data"]["field"]: event["message"] for event in events if event["type"] == "finding"}


def test_requirements_come_by_json_yaml_and_the_openai_client(platform: Platform) -> None:
    asks = {"gpu_kind": "H100-80GB", "min_gpu_memory_gib": 40.0, "labels": ["eu"], "num_devices": 2}
    wanted = {**asks, "accelerator": "cuda"}
    by_json = post(platform, GOOD | {"requires": asks})
    assert by_json["requires"] == wanted and by_json["spec"]["num_processes"] == 2

    text = "".join(f"{name}: {value}\n" for name, value in GOOD.items()) + f"seed: 7\nrequires: {asks}\n"
    headers = platform.headers() | {"Content-Type": "application/yaml"}
    by_yaml = platform.client.post("/v1/jobs", data=text.replace("'", '"'), headers=headers).get_json()
    assert by_yaml["requires"] == wanted

    body = {"model": "tiny", "training_file": "sums", "requires": asks, "priority": 3, "x_train": {"template": "qwen"}}
    made = platform.post("/v1/fine_tuning/jobs", body).get_json()
    job = platform.get(f"/v1/jobs/{made['id']}").get_json()
    assert (job["requires"], made["x_priority"]) == (wanted, 3)


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ({"requires": {"gpu_kind": "x" * 99}}, "requires.gpu_kind", "a kind of card"),
        ({"requires": {"gpu": "A100"}}, "requires.gpu", "unknown"),
        ({"requires": {"accelerator": "cpu", "gpu_kind": "T4"}}, "requires.accelerator", "leave one of them out"),
        ({"requires": {"num_devices": 2}, "num_processes": 4}, "requires.num_devices", "beside num_processes 4"),
        ({"requires": {"labels": ["x" * 65]}}, "requires.labels", "labels of 1 to 64"),
        ({"then": [{"kind": "export", "requires": {"num_devices": 2}}]}, "then[0].requires.num_devices", "no meaning"),
    ],
)
def test_requirements_that_make_no_sense_are_refused(
    platform: Platform, body: dict[str, Any], field: str, told: str
) -> None:
    answer = platform.post("/v1/jobs", GOOD | body)
    issues = {issue["field"]: issue["message"] for issue in answer.get_json()["error"]["issues"]}
    assert answer.status_code == 422 and told in issues[field], issues


def test_a_user_ranks_own_jobs_down_and_an_administrator_any_up(platform: Platform) -> None:
    refused = platform.post(
        "/v1/jobs", GOOD | {"priority": 1, "then": [{"kind": "export", "priority": 2}]}, role="user"
    )
    issues = refused.get_json()["error"]["issues"]
    assert [(issue["field"], issue["code"]) for issue in issues] == [
        ("priority", "not_allowed"), ("then[0].priority", "not_allowed"),
    ]  # fmt: skip
    job = post(platform, GOOD | {"seed": 11, "priority": -5}, role="user")

    def change(priority: Any, role: str) -> Any:
        path, headers = f"/v1/jobs/{job['id']}", platform.headers(role)
        return platform.client.patch(path, json={"priority": priority}, headers=headers)

    assert change(0, "user").get_json()["priority"] == 0
    assert change(1, "user").status_code == 422
    assert change(50, "admin").get_json()["priority"] == 50
    assert change("high", "admin").status_code == change(101, "admin").status_code == 422
    assert change(1, "viewer").status_code == 403
    claim = platform.store.attempts.claim_next(worker_id="w", kinds=[Kind.TRAIN], num_devices=1, storage_id=None)
    assert claim is not None and claim.job.id == job["id"]
    assert (change(0, "admin").status_code, change(0, "admin").get_json()["error"]["code"]) == (
        400,
        "invalid_job_state",
    )


def test_what_no_worker_has_is_told_at_the_door_and_in_the_queue(platform: Platform) -> None:
    beat(platform, "a")
    job = post(platform, GOOD | {"seed": 20, "requires": {"gpu_kind": "H100", "num_devices": 2}})

    told = "No worker has 2 device(s), kind H100: the job waits for one."
    assert warnings(platform, job)["requires"].startswith(told)
    assert "a (2 x NVIDIA A100-SXM4-80GB (79.2 GiB), eu)" in warnings(platform, job)["requires"]
    plan = platform.post("/v1/plans", GOOD | {"requires": {"gpu_kind": "H100", "num_devices": 2}}).get_json()
    assert any(finding["message"].startswith(told) for finding in plan["findings"])
    queue = platform.get(f"/v1/jobs/{job['id']}").get_json()["queue"]
    assert queue["reason"].startswith(told) and queue["estimated_start"] is None and "H100" in queue["reason_zh"]


def test_a_queued_job_says_what_it_waits_for(platform: Platform) -> None:
    ready = post(platform, GOOD | {"seed": 30, "priority": 90, "requires": {"gpu_kind": "A100"}})
    behind = post(platform, GOOD | {"seed": 31, "priority": 80, "requires": {"gpu_kind": "A100"}})
    assert ready["queue"]["reason"] == "It is next: worker a is free and takes it within seconds."
    assert ready["queue"]["position"] == 1 and ready["queue"]["estimated_start"] is not None
    assert behind["queue"]["position"] == 2 and behind["queue"]["ahead"] == behind["queue_position"] - 1 == 1
    listed = {job["id"]: job["queue"] for job in platform.get("/v1/jobs?status=queued&limit=100").get_json()["data"]}
    assert listed[behind["id"]]["position"] == 2

    claim = platform.store.attempts.claim_next(
        worker_id="a", kinds=[Kind.TRAIN], free=A100, machine=A100, storage_id="s", host="a"
    )
    assert claim is not None and claim.job.id == ready["id"] and claim.job.status == "running"
    beat(platform, "a", {"id": ready["id"], "kind": "train"})
    third = post(platform, GOOD | {"seed": 32, "requires": {"gpu_kind": "A100"}})  # reads the queue anew
    assert third["queue"]["position"] == 2
    waits = platform.get(f"/v1/jobs/{behind['id']}").get_json()["queue"]
    assert waits["reason"] == f"It is next, when worker a is done with {ready['id']}."
    assert platform.get(f"/v1/jobs/{ready['id']}").get_json()["queue"] is None


def test_workers_say_which_devices_they_have_and_who_holds_them(platform: Platform) -> None:
    beat(platform, "b")
    found = {worker["id"]: worker for worker in platform.get("/v1/workers").get_json()["data"]}
    [job] = [job for job in platform.store.attempts.held() if job.worker_id == "a"]

    assert found["a"]["devices"][0] == {
        "id": "GPU-0", "name": "NVIDIA A100-SXM4-80GB", "memory_gib": 79.2, "busy": True,
        "held_by": {"id": job.job_id, "kind": "train"},
    }  # fmt: skip
    assert found["a"]["busy"] and found["a"]["job"]["id"] == job.job_id and found["a"]["labels"] == ["eu"]
    assert not found["b"]["busy"] and found["b"]["job"] is None and not found["b"]["devices"][0]["busy"]
    other = platform.store.keys.create(platform.store.projects.create("other").id, "other", "user")[1]
    answer = platform.client.get("/v1/workers", headers={"Authorization": f"Bearer {other}"}).get_json()
    hidden = next(worker for worker in answer["data"] if worker["id"] == "a")
    assert hidden["job"]["id"] is None and hidden["devices"][0]["held_by"] == {"id": None, "kind": "train"}


def test_a_job_keeps_the_upload_that_its_datasets_name_meant(platform: Platform) -> None:
    first = platform.store.datasets.get(platform.store.projects.default().id, "sums")
    asked = GOOD | {"seed": 60, "then": [{"kind": "train", "dataset": "sums", "template": "qwen"}]}
    job = post(platform, asked)
    assert job["datasets"] == {"sums": {"id": first.id, "digest": first.digest}}
    assert job["then"][0]["request"]["datasets"] == job["datasets"]

    file = (io.BytesIO(jsonl(ROWS[:5])), "sums.jsonl")
    data = {"file": file, "name": "sums"}
    newer = platform.client.post("/v1/datasets", data=data, headers=platform.headers()).get_json()

    record = platform.store.jobs.get(first.project_id, job["id"])
    found = catalog.dataset_of(platform.store, platform.settings, record, "sums")
    assert found.record is not None and (found.record.id, found.name) == (first.id, "sums")
    assert platform.client.delete(f"/v1/datasets/{first.id}", headers=platform.headers()).status_code == 409
    again = post(platform, asked)
    assert again["id"] != job["id"] and again["datasets"]["sums"]["id"] == newer["id"]
