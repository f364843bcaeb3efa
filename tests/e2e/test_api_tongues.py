"""Both tongues over HTTP: parameters, complaints, rows, the findings of jobs and plans."""

from __future__ import annotations

import io
from typing import Any

import pytest

from gateway.jobs import error_json
from shared import failures
from shared.job import Status
from shared.spec import SPECS
from tests.platform import ROWS, Platform, jsonl, make_platform

GOOD: dict[str, Any] = {"model_name_or_path": "base", "dataset": "sums", "stage": "sft", "template": "qwen"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = make_platform(tmp_path_factory.mktemp("tongues"))
    assert made.post("/v1/models", {"name": "base", "model_name_or_path": "tiny"}).status_code == 201
    assert upload(made, "sums", ROWS).status_code == 201
    return made


def upload(platform: Platform, name: str, rows: list[Any]) -> Any:
    data = {"file": (io.BytesIO(jsonl(rows)), f"{name}.jsonl"), "purpose": "fine-tune"}
    return platform.client.post("/v1/datasets", data=data, headers=platform.headers())


def is_chinese(text: str) -> bool:
    return any("\u4e00" <= char <= "\u9fff" for char in text)


@pytest.mark.parametrize("kind", list(SPECS))
def test_parameters_are_told_in_both_tongues(platform: Platform, kind: str) -> None:
    parameters = platform.get(f"/v1/parameters?kind={kind}").get_json()["data"]
    for told in parameters:
        assert is_chinese(told["zh"]["doc"]) and not is_chinese(told["doc"])
        assert set(told["zh"]) == {part for part in ("doc", "advice", "picture") if told[part]}


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plans"])
def test_every_complaint_is_told_in_both_tongues(platform: Platform, path: str) -> None:
    wrong = {"lora_rank": 0, "lora_rnk": 8, "bf16": "yes", "use_galore": True, "warmup_steps": 5, "warmup_ratio": 0.1}
    answer = platform.post(path, GOOD | wrong)
    issues = answer.get_json()["error"]["issues"]
    assert answer.status_code == 422 and {issue["field"] for issue in issues} >= wrong.keys() - {"warmup_steps"}
    assert all(is_chinese(issue["message_zh"]) and not is_chinese(issue["message"]) for issue in issues)


def test_a_broken_row_is_told_in_both_tongues(platform: Platform) -> None:
    rows = [*ROWS, {"messages": [{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}]}]
    answer = upload(platform, "broken", rows)
    (issue,) = answer.get_json()["error"]["issues"]
    assert (answer.status_code, issue["line"]) == (422, len(rows))
    assert is_chinese(issue["message_zh"]) and "'robot'" in issue["message_zh"]


def test_findings_of_a_job_are_events_in_both_tongues(platform: Platform) -> None:
    job = platform.post("/v1/jobs", GOOD).get_json()
    events = platform.get(f"/v1/jobs/{job['id']}/events").get_json()["data"]
    findings = [event for event in events if event["type"] == "finding"]
    assert findings
    assert is_chinese(events[0]["data"]["zh"]["message"]) and events[0]["message"] == "Job is queued"
    for event in findings:
        assert is_chinese(event["data"]["zh"]["message"]) and not is_chinese(event["message"])


def test_findings_and_reasons_of_a_plan_are_told_in_both_tongues(platform: Platform) -> None:
    asked = {"goal": "knowledge", "gpus": {"kind": "A100-80GB", "count": 8}, "num_rows": 5000}
    plan = platform.post("/v1/plans", {"model_name_or_path": "base", "dataset": "sums", **asked}).get_json()
    assert plan["findings"] and all(is_chinese(told["zh"]["message"]) for told in plan["findings"])
    assert all(is_chinese(told["zh"]["advice"]) for told in plan["findings"] if told["advice"])
    assert plan["reasons"] and all(is_chinese(told["zh"]["why"]) for told in plan["reasons"])


def test_what_a_job_failed_of_is_told_in_both_tongues(platform: Platform) -> None:
    job = platform.post("/v1/jobs", GOOD | {"seed": 3}).get_json()
    project = platform.store.projects.default().id
    while (claim := platform.store.attempts.claim_next(worker_id="w", kinds=["train"], num_devices=1)) is not None:
        error = {"code": "disk_full", "message": "No space left", "field": None}
        platform.store.attempts.finish(claim.job.id, claim.attempt, status=Status.FAILED, error=error)
    told = platform.get(f"/v1/jobs/{job['id']}").get_json()["error"]
    running = platform.store.events.list(project, job["id"])[-2]

    assert told["message"] == "No space left" and is_chinese(told["message_zh"])
    assert running.message == "Job is running on w, attempt 1" and is_chinese(running.data["zh"]["message"])
    for code in failures.TABLE:
        assert is_chinese(error_json({"code": code, "message": "m"})["message_zh"]), code  # type: ignore[index]
