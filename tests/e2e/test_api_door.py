"""What must not pass the door: code that nobody allowed, and followers that could never run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from gateway.followers import MAX_FOLLOWERS
from shared.job import Kind, Status
from shared.records import NewModel
from tests.platform import ROWS, Platform, jsonl, make_platform

GOOD: dict[str, Any] = {"model_name_or_path": "tiny-model", "dataset": "sums", "stage": "sft"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return ready(tmp_path_factory.mktemp("door"))


def ready(home: Path, **settings: Any) -> Platform:
    made = make_platform(home, **settings)
    assert made.post("/v1/models", {"name": "tiny-model", "model_name_or_path": "tiny"}).status_code == 201
    data = {"file": (io.BytesIO(jsonl(ROWS)), "sums.jsonl")}
    assert made.client.post("/v1/datasets", data=data, headers=made.headers()).status_code == 201
    project = made.store.projects.default().id
    lineage = [("ft", "adapter", "tiny-model"), ("listed", "merged", "ft"), ("small", "quantized", "listed")]
    for name, kind, base in lineage:
        rest: dict[str, Any] = {
            "uri": f"store://models/{name}",
            "digest": "d",
            "size_bytes": 1,
            "format": "safetensors",
        }
        made.store.models.create(project, NewModel(name=name, kind=kind, base_model=base, **rest))
    return made


def issues(answer: Any) -> dict[str, str]:
    assert answer.status_code == 422, answer.get_json()
    return {issue["field"]: issue["message"] for issue in answer.get_json()["error"]["issues"]}


@pytest.mark.parametrize(
    "body",
    [
        GOOD | {"seed": 1},
        {"kind": "export", "model_name_or_path": "ft"},
        # Users choose this name: it says nothing about whose code it is.
        {"kind": "export", "model_name_or_path": "listed"},
    ],
)
def test_code_of_a_model_stays_out_unless_the_administrator_listed_it(
    tmp_path: Path, platform: Platform, body: dict[str, Any]
) -> None:
    other = ready(tmp_path, trust_remote_code=["listed", "org/model"])
    for asked in (platform, other):
        job = asked.post("/v1/jobs", body | {"trust_remote_code": True}).get_json()
        assert job["spec"]["trust_remote_code"] is False
        events = asked.get(f"/v1/jobs/{job['id']}/events").get_json()["data"]
        assert "trust_remote_code" in [event["data"].get("field") for event in events]


@pytest.mark.parametrize("model", ["tiny-model", "ft", "listed"])
def test_code_of_a_listed_base_comes_with_all_that_was_made_of_it(tmp_path: Path, model: str) -> None:
    platform = ready(tmp_path, trust_remote_code=["tiny-model"])
    body = {"kind": "export", "model_name_or_path": model, "trust_remote_code": True}
    then = [{"kind": "deploy", "trust_remote_code": True}]
    job = platform.post("/v1/jobs", body | {"then": then}).get_json()
    assert job["spec"]["trust_remote_code"] is True
    assert job["then"][0]["spec"]["trust_remote_code"] is True


def test_code_stays_out_of_deployments_and_followers_too(platform: Platform) -> None:
    then = [{"kind": "export", "trust_remote_code": True, "then": [{"kind": "deploy", "trust_remote_code": True}]}]
    job = platform.post("/v1/jobs", GOOD | {"seed": 2, "then": then}).get_json()
    export = job["then"][0]
    assert export["spec"]["trust_remote_code"] is export["then"][0]["spec"]["trust_remote_code"] is False
    deployment = platform.post("/v1/deployments", {"model": "tiny-model", "trust_remote_code": True}).get_json()
    assert deployment["spec"]["trust_remote_code"] is False


@pytest.mark.parametrize(
    ("then", "field"),
    [
        ([{"kind": "train", "dataset": "smus"}], "then[0].dataset"),
        ([{"kind": "export"}, {"kind": "deploy", "model": "tiny-modle"}], "then[1].model"),
        ([{"kind": "export", "model": "tiny-modle"}], "then[0].model_name_or_path"),
        ([{"kind": "export", "then": [{"kind": "generate", "dataset": "smus"}]}], "then[0].then[0].dataset"),
        ([{"kind": "export", "then": [{"kind": "fly"}]}], "then[0].then"),
        ([{"kind": "deploy", "then": [{"kind": "export"}]}], "then[0].then"),
        ([{"kind": "export", "hf_hub_token": "hf_x"}], "then[0].hf_hub_token"),
        ([{"kind": "export", "suffix": "a b"}], "then[0].suffix"),
    ],
)
def test_a_follower_that_could_never_run_is_refused_with_the_job(
    platform: Platform, then: list[dict[str, Any]], field: str
) -> None:
    before = platform.store.jobs.counts()
    assert field in issues(platform.post("/v1/jobs", GOOD | {"seed": 3, "then": then}))
    assert platform.store.jobs.counts() == before


def test_the_model_still_to_be_made_is_a_name_for_followers_only(platform: Platform) -> None:
    assert "model_name_or_path" in issues(platform.post("/v1/jobs", GOOD | {"model_name_or_path": "$model"}))


@pytest.mark.parametrize("depth", [1, 2])
def test_more_followers_than_allowed_are_refused_before_they_are_worked_through(platform: Platform, depth: int) -> None:
    entries: list[dict[str, Any]] = [{"kind": "export"}] * 8
    for _ in range(depth):
        entries = [{"kind": "export", "then": entries}] * 8
    assert str(MAX_FOLLOWERS) in issues(platform.post("/v1/jobs", GOOD | {"seed": 4, "then": entries}))["then"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"model_name_or_path": "a" * 300}, "model_name_or_path"),
        ({"dataset": "a/" * 3000}, "dataset"),
        ({"eval_dataset": ["sums", "a" * 5000]}, "eval_dataset"),
        ({"then": [{"kind": "generate", "dataset": "a" * 300}]}, "then[0].dataset"),
    ],
)
def test_a_name_that_no_file_can_have_is_a_complaint_and_no_fault(
    platform: Platform, wrong: dict[str, Any], field: str
) -> None:
    assert field in issues(platform.post("/v1/jobs", GOOD | wrong))


def test_a_kind_of_null_is_as_good_as_left_out(platform: Platform) -> None:
    job = platform.post("/v1/jobs", GOOD | {"seed": 6, "kind": None})
    assert (job.status_code, job.get_json()["kind"]) == (201, "train")


def test_followers_of_followers_come_with_all_they_need(platform: Platform) -> None:
    inner = {"kind": "deploy", "name": "served", "max_model_len": 64}
    then = [{"kind": "export", "name": "pack", "export_format": "merged", "then": [inner]}]
    job = platform.post("/v1/jobs", GOOD | {"seed": 5, "priority": 100, "then": then}).get_json()
    finish(platform, job["id"], Kind.TRAIN, "made-by-training")
    export = next(found for found in listed(platform, "export") if found["parent_id"] == job["id"])
    assert (export["name"], export["spec"]["model_name_or_path"]) == ("pack", "made-by-training")
    assert export["requires"] == {"num_devices": 0}, "on the CPU it waits for no device"
    finish(platform, export["id"], Kind.EXPORT, "made-by-export")
    served = platform.get("/v1/deployments/served").get_json()
    assert (served["model"], served["spec"]["max_model_len"]) == ("made-by-export", 64)


def listed(platform: Platform, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = platform.get(f"/v1/jobs?kind={kind}").get_json()["data"]
    return found


def finish(platform: Platform, job_id: str, kind: Kind, model: str) -> None:
    """What a worker writes when the job has succeeded."""
    claim = platform.store.attempts.claim_next(worker_id="w", kinds=[kind], num_devices=1, storage_id=None)
    assert claim is not None and claim.job.id == job_id
    new = NewModel(name=model, kind="merged", uri="store://m", digest="d", size_bytes=1, format="safetensors")
    platform.store.attempts.finish(job_id, claim.attempt, status=Status.SUCCEEDED, models=[new])
