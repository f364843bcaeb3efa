"""A model may be named by the `output_dir` or `export_dir` of the job that made it, as LLaMA Factory's files do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.records import NewModel
from tests.platform import Platform, make_platform

LABEL = "saves/tiny/lora/sft"
MERGE = {"kind": "export", "model_name_or_path": "tiny", "adapter_name_or_path": LABEL}


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    made = make_platform(tmp_path)
    assert made.post("/v1/models", {"name": "tiny", "model_name_or_path": "tiny"}).status_code == 201
    for name in ("older", "newer"):
        register(made, name, output_dir=LABEL)
    return made


def register(platform: Platform, name: str, kind: str = "adapter", **config: Any) -> None:
    new = NewModel(
        name=name, kind=kind, base_model="tiny", uri="store://m", digest="d", size_bytes=1, format="safetensors",
        config=config,
    )  # fmt: skip
    platform.store.models.create(platform.store.projects.default().id, new)


def test_the_newest_model_that_was_made_under_a_label_answers_to_it_and_that_is_said(platform: Platform) -> None:
    job = platform.post("/v1/jobs", MERGE).get_json()
    assert job["spec"]["adapter_name_or_path"] == "newer"
    events = platform.get(f"/v1/jobs/{job['id']}/events").get_json()["data"]
    told = [event["message"] for event in events if event["data"].get("field") == "adapter_name_or_path"]
    assert any(LABEL in message and "newer" in message for message in told)


def test_a_name_of_the_catalog_goes_before_a_label(platform: Platform) -> None:
    register(platform, LABEL)
    assert platform.post("/v1/jobs", MERGE).get_json()["spec"]["adapter_name_or_path"] == LABEL


def test_a_label_of_nothing_is_refused(platform: Platform) -> None:
    (issue,) = platform.post("/v1/jobs", MERGE | {"adapter_name_or_path": "saves/other"}).get_json()["error"]["issues"]
    assert (issue["field"], issue["code"]) == ("adapter_name_or_path", "model_not_found")


def test_what_follows_a_job_may_use_labels_too(platform: Platform) -> None:
    job = platform.post("/v1/jobs", {**MERGE, "then": [{"kind": "export", "adapter_name_or_path": LABEL}]}).get_json()
    assert job["then"][0]["spec"]["adapter_name_or_path"] == "newer"


def test_an_inference_file_serves_the_adapter_on_its_base(platform: Platform) -> None:
    text = f"model_name_or_path: tiny\nadapter_name_or_path: {LABEL}\ninfer_backend: huggingface\n"
    headers = platform.headers() | {"Content-Type": "application/yaml"}
    made = platform.client.post("/v1/deployments", data=text, headers=headers).get_json()
    assert (made["model"], made["spec"]["model"], made["spec"]["adapter_name_or_path"]) == ("newer", "tiny", "newer")


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"model": "whole", "adapter_name_or_path": "newer"}, "trained on 'tiny'"),
        ({"model": "tiny", "adapter_name_or_path": "whole"}, "must be an adapter"),
        ({"model": "tiny", "adapter_name_or_path": "nowhere"}, "no model"),
    ],
)
def test_an_adapter_that_does_not_fit_its_deployment_is_refused(
    platform: Platform, body: dict[str, Any], part: str
) -> None:
    register(platform, "whole", "merged")
    (issue,) = platform.post("/v1/deployments", body).get_json()["error"]["issues"]
    assert issue["field"] == "adapter_name_or_path"
    assert part in issue["message"]
