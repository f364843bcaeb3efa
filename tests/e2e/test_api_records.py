"""Datasets and models as records: what is in use stays, what is misspelt is told, and what comes again is the same."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.records import NewModel
from tests.platform import ROWS, Platform, jsonl, make_platform


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    made = make_platform(tmp_path)
    assert made.post("/v1/models", {"name": "tiny", "model_name_or_path": "tiny"}).status_code == 201
    assert upload(made, ROWS, "sums.jsonl").status_code == 201
    return made


def upload(platform: Platform, rows: list[Any], filename: str, path: str = "/v1/datasets", **form: Any) -> Any:
    data = {"file": (io.BytesIO(jsonl(rows)), filename), **form}
    return platform.client.post(path, data=data, headers=platform.headers())


def delete(platform: Platform, path: str) -> Any:
    return platform.client.delete(path, headers=platform.headers())


JOBS: list[dict[str, Any]] = [
    {"model_name_or_path": "tiny", "dataset": "sums"},
    {"kind": "generate", "model": "tiny", "dataset": "sums"},
    {"kind": "export", "model_name_or_path": "tiny", "export_quantization_dataset": "sums",
     "export_quantization_bit": 4},
    {"kind": "export", "model_name_or_path": "tiny", "then": [{"kind": "generate", "dataset": "sums"}]},
]  # fmt: skip


@pytest.mark.parametrize("body", JOBS, ids=["train", "generate", "calibration", "follower"])
def test_what_a_waiting_job_needs_cannot_be_deleted(platform: Platform, body: dict[str, Any]) -> None:
    job = platform.post("/v1/jobs", body).get_json()["id"]
    for path in ("/v1/datasets/sums", "/v1/models/tiny"):
        refused = delete(platform, path)
        assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")
        assert job in refused.get_json()["error"]["message"]
    platform.post(f"/v1/jobs/{job}/cancel")
    assert delete(platform, "/v1/datasets/sums").status_code == 200
    assert delete(platform, "/v1/models/tiny").status_code == 200


def test_an_older_dataset_of_a_name_goes_while_a_job_uses_the_newest(platform: Platform) -> None:
    older = platform.get("/v1/datasets/sums").get_json()["id"]
    newest = upload(platform, ROWS[:3], "sums.jsonl").get_json()["id"]
    platform.post("/v1/jobs", JOBS[0])
    assert delete(platform, f"/v1/datasets/{newest}").status_code == 409
    assert delete(platform, f"/v1/datasets/{older}").status_code == 200


def test_deleting_takes_the_files_too(platform: Platform) -> None:
    record = platform.store.datasets.get(platform.store.projects.default().id, "sums")
    assert platform.artifacts.exists(record.uri)
    assert delete(platform, "/v1/datasets/sums").status_code == 200
    assert not platform.artifacts.exists(record.uri)


@pytest.mark.parametrize(
    ("form", "field", "told"),
    [
        ({"formating": "alpaca"}, "formating", "'formatting'"),
        ({"collumns": "{}"}, "collumns", "'columns'"),
        ({"tags": '{"usr_tag": "u"}'}, "tags", "user_tag"),
        ({"name": ["a", "b"]}, "name", "2 times"),
        ({"expires_after[seconds]": "3600"}, "expires_after[seconds]", "unknown"),
    ],
)
def test_a_misspelt_field_of_an_upload_is_not_passed_over(
    platform: Platform, form: dict[str, Any], field: str, told: str
) -> None:
    refused = upload(platform, ROWS[:2], "x.jsonl", **form)
    assert refused.status_code == 422
    issue = refused.get_json()["error"]["issues"][0]
    assert (issue["field"], told in issue["message"]) == (field, True)


def test_openai_uploads_may_ask_for_an_expiry_and_are_told_of_none(platform: Platform) -> None:
    form = {"purpose": "fine-tune", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = upload(platform, ROWS[:2], "x.jsonl", path="/v1/files", **form)
    assert (file.status_code, file.get_json()["expires_at"]) == (200, None)


def test_a_folder_is_registered_under_any_name_and_twice_is_once(platform: Platform) -> None:
    again = platform.post("/v1/models", {"name": "tiny", "model_name_or_path": "tiny"})
    assert (again.status_code, again.get_json()["id"]) == (200, "tiny")
    # A model of the catalog has the folder's name: the folder is meant all the same.
    assert platform.post("/v1/models", {"name": "other", "model_name_or_path": "tiny"}).status_code == 201
    project = platform.store.projects.default().id
    rest: dict[str, Any] = {"uri": "store://m", "digest": "d", "size_bytes": 1, "format": "safetensors"}
    platform.store.models.create(project, NewModel(name="made", kind="merged", **rest))
    refused = platform.post("/v1/models", {"name": "third", "model_name_or_path": "made"})
    assert "IMPORT_ROOTS" in refused.get_json()["error"]["issues"][0]["message"]


@pytest.mark.parametrize("name", ["a" * 200, "b/" * 99 + "b", "~root", ".", "tiny/config.json", "tiny\u2028"])
def test_a_path_that_cannot_be_a_model_is_a_complaint_and_no_fault(platform: Platform, name: str) -> None:
    for path in (name, f"{'d' * 100}/{name}"[:200]):
        refused = platform.post("/v1/models", {"name": "x", "model_name_or_path": path})
        assert refused.status_code == 422
        assert refused.get_json()["error"]["param"] == "model_name_or_path"


@pytest.mark.parametrize("number", ["0", "x", "-1", "9" * 19, "9" * 5000])
def test_a_cursor_that_is_no_event_of_the_job_is_named(platform: Platform, number: str) -> None:
    job = platform.post("/v1/jobs", JOBS[0]).get_json()["id"]
    cursor = f"ftevent-{job.removeprefix('ftjob-')}-{number}"
    refused = platform.get(f"/v1/fine_tuning/jobs/{job}/events?after={cursor}")
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("target", ["outside", "/etc"])
def test_a_link_does_not_lead_out_of_the_import_roots(platform: Platform, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "import" / "link").symlink_to(tmp_path / "outside" if target == "outside" else target)
    refused = platform.post("/v1/models", {"name": "x", "model_name_or_path": "link"})
    assert refused.status_code == 422
    (tmp_path / "import" / "tiny" / "link").symlink_to(tmp_path / "outside" if target == "outside" else target)
    refused = platform.post("/v1/models", {"name": "x", "model_name_or_path": "tiny"})
    assert "outside" in refused.get_json()["error"]["message"]


def test_uploads_are_written_on_the_disk_of_the_platform_only(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = httpx.Request("POST", "http://x", files={"file": ("large.jsonl", jsonl(ROWS * 2000))})
    content = body.read()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    headers = platform.headers() | {"Content-Type": body.headers["Content-Type"]}
    assert platform.client.post("/v1/datasets", data=content, headers=headers).status_code == 201
    assert list((platform.settings.run_dir / "uploads").iterdir()) == []


def test_content_comes_back_byte_by_byte(platform: Platform) -> None:
    rows = ROWS * 5000
    file = upload(platform, rows, "gro\u00df.jsonl", path="/v1/files", purpose="fine-tune").get_json()
    answer = platform.get(f"/v1/files/{file['id']}/content")
    assert answer.get_data() == jsonl(rows)
    assert answer.headers["Content-Disposition"] == "attachment; filename=gro_.jsonl; filename*=UTF-8''gro%C3%9F.jsonl"


def test_a_model_of_the_hub_is_registered_without_its_files_and_can_be_deployed(tmp_path: Path) -> None:
    platform = make_platform(tmp_path, hub=True)
    body = {"name": "qwen", "model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct"}
    made = platform.post("/v1/models", body)
    assert (made.status_code, platform.post("/v1/models", body).status_code) == (201, 200)
    record = platform.store.models.get(platform.store.projects.default().id, "qwen")
    assert record.uri == "hub://Qwen/Qwen2.5-0.5B-Instruct"
    assert platform.post("/v1/deployments", {"model": "qwen"}).status_code == 201
    assert platform.post("/v1/models", body | {"name": "q", "model_name_or_path": "no-such-folder"}).status_code == 422
    off = make_platform(tmp_path / "off")
    assert off.post("/v1/models", body).status_code == 422
