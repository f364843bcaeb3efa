"""The whole life of a model with its artifacts on S3: upload, training, checkpoint, export, download, push, deletion.

Requests pass the gateway, jobs the real runner and its real children; the S3 and the Hub are servers of this machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from export_worker.push import PushWork
from export_worker.work import ExportWork
from shared.runner import Runner, Worker
from tests import hub, s3
from tests.e2e.test_main_job import make_model
from tests.platform import ROWS, Platform, jsonl, make_platform
from trainer_worker.work import TrainWork

TRAINING = {
    "model_name_or_path": "small", "dataset": "sums", "template": "chatml", "finetuning_type": "lora", "max_steps": 4,
    "save_steps": 2, "save_only_model": False, "logging_steps": 1, "cutoff_len": 64, "suffix": "sums",
}  # fmt: skip


@pytest.fixture
def there() -> Iterator[hub.Hub]:
    with hub.serve() as made:
        yield made


@pytest.fixture
def platform(tmp_path: Path, there: hub.Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    with s3.serve(monkeypatch) as url:
        make_model(tmp_path / "import" / "small")
        yield make_platform(tmp_path, hub=True, hub_url=there.url, storage_url=f"{url}/root", devices=["cpu"])


def work(platform: Platform, job_id: str) -> dict[str, Any]:
    """The job, after a worker has done all there is."""
    worker = Worker(
        id="w", works=[TrainWork(), ExportWork(), PushWork()], devices=("cpu",),
        storage_id=platform.artifacts.storage_id(),
    )  # fmt: skip
    Runner(platform.store, platform.artifacts, platform.settings, worker).look()
    jobs = platform.get("/v1/jobs").get_json()["data"]
    assert [job["error"] for job in jobs if job["status"] != "succeeded"] == []
    return next(job for job in jobs if job["id"] == job_id)


def stored() -> list[str]:
    return [path.partition("/root/")[2] for path in fsspec.filesystem("s3").find(f"{s3.BUCKET}/root")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_lives_on_s3_from_its_data_to_its_deletion(platform: Platform, there: hub.Hub) -> None:
    data = {"file": (io.BytesIO(jsonl(ROWS)), "sums.jsonl")}
    assert platform.client.post("/v1/datasets", data=data, headers=platform.headers()).status_code == 201
    assert platform.post("/v1/models", {"name": "small", "model_name_or_path": "small"}).status_code == 201

    trained = work(platform, platform.post("/v1/jobs", TRAINING).get_json()["id"])
    adapter = trained["model"]
    first, _ = platform.get(f"/v1/jobs/{trained['id']}/checkpoints").get_json()["data"]
    assert first["is_resumable"]
    assert check_files(platform, first["name"]) >= {"adapter_config.json", "adapter_model.safetensors"}

    told = {"export_hub_model_id": "me/sums", "hf_hub_token": hub.TOKEN, "export_verify_vllm": "off"}
    body = {"kind": "export", "model_name_or_path": "ft:small:local:sums@latest", "export_dir": "sums", **told}
    exported = work(platform, platform.post("/v1/jobs", body).get_json()["id"])
    assert exported["model"] == "sums"
    assert check_files(platform, "sums") >= {"config.json", "model.safetensors", "README.md"}
    check_archive(platform, "sums")
    lineage = platform.get("/v1/models/sums").get_json()["lineage"]
    assert [step["id"] for step in lineage] == ["small", trained["id"], adapter, exported["id"], "sums"]

    (pushed,) = platform.get("/v1/models/sums").get_json()["pushes"]
    assert (pushed["url"], there.private) == (f"{there.url}/me/sums", {"me/sums": True})
    content = platform.get("/v1/models/sums/files/model.safetensors").get_data()
    assert there.files["me/sums", "main"]["model.safetensors"] == content
    check_secrets(platform)

    for name in ("sums", adapter):
        assert platform.client.delete(f"/v1/models/{name}", headers=platform.headers()).status_code == 200
    for checkpoint in platform.get(f"/v1/jobs/{trained['id']}/checkpoints").get_json()["data"]:
        path = f"/v1/jobs/{trained['id']}/checkpoints/{checkpoint['id']}"
        assert platform.client.delete(path, headers=platform.headers()).status_code == 200
    assert not [path for path in stored() if path.startswith("jobs/") and "/checkpoints/" not in path]


def check_files(platform: Platform, model: str) -> set[str]:
    """Every file comes as it was sealed, whole and from its middle."""
    files = platform.get(f"/v1/models/{model}/files").get_json()["data"]
    for file in files:
        url = f"/v1/models/{model}/files/{file['path']}"
        content = platform.get(url).get_data()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        half = len(content) // 2
        assert platform.get(url, headers={"Range": f"bytes={half}-"}).get_data() == content[half:]
    return {file["path"] for file in files}


def check_archive(platform: Platform, model: str) -> None:
    packed = platform.get(f"/v1/models/{model}/archive").get_data()
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert json.load(tar.extractfile(f"{model}/config.json"))["model_type"] == "llama"  # type: ignore[arg-type]


def check_secrets(platform: Platform) -> None:
    """Neither the storage's key nor the Hub's token is in what jobs leave behind."""
    left = [path for path in (platform.settings.run_dir / "jobs").rglob("*") if path.is_file()]
    assert any(path.name == "run.json" for path in left)
    for path in left:
        text = path.read_bytes()
        assert hub.TOKEN.encode() not in text and os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in text, path
