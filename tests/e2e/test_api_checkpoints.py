"""Checkpoints over HTTP: listed, named as models wherever a model is named, removed. The ledger is filled by hand."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.job import Kind, Status
from shared.records import NewModel
from tests.platform import ROWS, Platform, jsonl, make_platform

#: Of the validations at the steps 10, 20 and 30: the second is the best.
EVAL_LOSSES = (0.9, 0.5, 0.7)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    made = make_platform(tmp_path_factory.mktemp("checkpoints"))
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def training(platform: Platform) -> dict[str, Any]:
    """A LoRA training that runs and has three checkpoints."""
    platform.post("/v1/models", {"name": "tiny", "model_name_or_path": "."})
    platform.client.post(
        "/v1/datasets",
        data={"file": (io.BytesIO(jsonl(ROWS)), "sums.jsonl"), "name": "sums"},
        headers=platform.headers(),
    )
    body = {"model": "tiny", "dataset": "sums", "save_steps": 10, "output_dir": "saves/sums"}
    job: dict[str, Any] = platform.post("/v1/jobs", body).json
    claim = platform.store.attempts.claim_next(worker_id="w", kinds=[Kind.TRAIN], num_devices=1, storage_id="s")
    assert claim is not None and claim.job.id == job["id"]
    for step, loss in zip((10, 20, 30), EVAL_LOSSES, strict=True):
        add_checkpoint(platform, job["id"], step, {"loss": 1.0, "eval_loss": loss, "epoch": step / 30})
    return job


def add_checkpoint(platform: Platform, job_id: str, step: int, metrics: dict[str, Any]) -> None:
    state, model = (platform.settings.home / f"{part}-{step}" for part in ("state", "model"))
    for folder, name in ((state, "optimizer.pt"), (model, "adapter_config.json")):
        folder.mkdir()
        (folder / name).write_text(f'{{"r": {step}}}')
    uri = f"store://jobs/{job_id}/attempts/1/checkpoints/{step}"
    states, models = (
        platform.artifacts.put_folder(part, f"{uri}/{name}") for part, name in ((state, "state"), (model, "model"))
    )
    told = {"kind": "adapter", "base_model": "tiny", "format": "safetensors", "template": None, "config": {}}
    files = {"uri": models.uri, "digest": models.digest, "size_bytes": models.size_bytes}
    platform.store.attempts.add_checkpoint(
        job_id, 1, step=step, uri=states.uri, digest=states.digest, size_bytes=states.size_bytes, metrics=metrics,
        name=f"ft:tiny:local::{job_id[-8:]}:ckpt-step-{step}", model=told | files,
    )  # fmt: skip


def listed(platform: Platform, job: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = platform.get(f"/v1/jobs/{job['id']}/checkpoints").json["data"]
    return found


def test_the_list_says_what_each_is_good_for(platform: Platform, training: dict[str, Any]) -> None:
    found = listed(platform, training)

    assert [(one["step"], one["is_best"], one["is_newest"]) for one in found] == [
        (10, False, False), (20, True, False), (30, False, True)
    ]  # fmt: skip
    assert found[1]["epoch"] == 20 / 30 and found[1]["metrics"]["eval_loss"] == 0.5
    assert all(one["is_resumable"] and one["base_model"] == "tiny" for one in found)
    assert found[0]["size_bytes"] > found[0]["model_size_bytes"] > 0
    newest, *_ = platform.get(f"/v1/fine_tuning/jobs/{training['id']}/checkpoints").json["data"]
    assert (newest["step_number"], newest["fine_tuned_model_checkpoint"]) == (30, found[2]["name"])
    assert newest["metrics"]["valid_loss"] == 0.7


@pytest.mark.parametrize("member", ["name", "id"])
def test_a_checkpoint_is_a_model_wherever_one_is_named(
    platform: Platform, training: dict[str, Any], member: str
) -> None:
    checkpoint = listed(platform, training)[0]
    name = checkpoint[member]

    record = platform.get(f"/v1/models/{name}")
    assert (record.status_code, record.json["id"], record.json["parent"]) == (200, checkpoint["name"], "tiny")
    for body in (
        {"model": name, "dataset": "sums"},
        {"model": "tiny", "adapter_name_or_path": name, "dataset": "sums"},
        {"kind": "export", "model": name},
    ):
        answer = platform.post("/v1/jobs", {**body, "metadata": {"by": member}})
        assert answer.status_code == 201, answer.json
        platform.post(f"/v1/jobs/{answer.json['id']}/cancel")
    served = platform.post("/v1/deployments", {"model": name})
    assert served.status_code == 201, served.json
    asked = platform.post("/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "Hi"}]})
    assert asked.status_code == 503 and "pending" in asked.json["error"]["message"]
    platform.client.delete(f"/v1/deployments/{served.json['id']}", headers=platform.headers())


@pytest.mark.parametrize(
    ("named", "step"),
    [("NAME", 10), ("ID", 10), ("JOB", 30), ("saves/sums/checkpoint-20", 20), ("saves/sums", 30), (True, 30)],
)
def test_another_job_goes_on_from_a_checkpoint(
    platform: Platform, training: dict[str, Any], named: Any, step: int
) -> None:
    first = listed(platform, training)[0]
    named = {"NAME": first["name"], "ID": first["id"], "JOB": training["id"]}.get(named, named)
    body = {"model": "tiny", "dataset": "sums", "save_steps": 10, "output_dir": "saves/sums", "num_train_epochs": 5}

    job = platform.post("/v1/jobs", {**body, "resume_from_checkpoint": named, "metadata": {"named": str(named)}})

    assert job.status_code == 201, job.json
    meant = platform.get(f"/v1/jobs/{training['id']}/checkpoints/{job.json['spec']['resume_from_checkpoint']}").json
    assert meant["step"] == step
    platform.post(f"/v1/jobs/{job.json['id']}/cancel")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"resume_from_checkpoint": "saves/other"}, "resume_from_checkpoint"),
        ({"learning_rate": 0.5}, "learning_rate"),
        ({"max_steps": 30}, "max_steps"),
    ],
)
def test_what_cannot_go_on_is_refused_with_what_differs(
    platform: Platform, training: dict[str, Any], body: dict[str, Any], field: str
) -> None:
    given = {"model": "tiny", "dataset": "sums", "resume_from_checkpoint": training["id"]}
    refused = platform.post("/v1/jobs", {**given, **body})
    assert refused.status_code == 422
    assert [issue["field"] for issue in refused.json["error"]["issues"]] == [field]


def test_what_is_needed_stays_and_the_rest_can_go(platform: Platform, training: dict[str, Any]) -> None:
    first, _, newest = listed(platform, training)
    export = platform.post("/v1/jobs", {"kind": "export", "model": first["name"]}).json
    path = f"/v1/jobs/{training['id']}/checkpoints"

    def delete(name: str, role: str = "admin") -> Any:
        return platform.client.delete(f"{path}/{name}", headers=platform.headers(role))

    assert delete(first["id"], "viewer").status_code == 403
    used = delete(first["id"])
    assert used.status_code == 409 and export["id"] in used.json["error"]["message"]
    kept = delete(newest["id"])
    assert kept.status_code == 409 and "goes on from" in kept.json["error"]["message"]
    assert delete("ckpt-nope").status_code == 404

    platform.post(f"/v1/jobs/{export['id']}/cancel")
    assert delete(first["name"]).json["deleted"]
    assert [one["step"] for one in listed(platform, training)] == [20, 30]
    assert platform.get(f"/v1/models/{first['name']}").status_code == 404
    due = platform.store.discarded.due("s", grace_seconds=0)
    assert [uri.rpartition("/checkpoints/")[2] for uri in due] == ["10/state", "10/model"]


def test_a_whole_model_made_from_a_checkpoint_keeps_it(platform: Platform, training: dict[str, Any]) -> None:
    project = platform.store.projects.default().id
    checkpoint = listed(platform, training)[-2]
    platform.store.attempts.finish(training["id"], 1, status=Status.SUCCEEDED)
    sealed = platform.artifacts.put_folder(Path(platform.settings.import_roots[0]) / "tiny", "store://models/made")
    files = {"uri": sealed.uri, "digest": sealed.digest, "size_bytes": 1, "format": "safetensors"}
    made = NewModel(name="made", kind="merged", base_model=checkpoint["name"], **files)  # type: ignore[arg-type]
    platform.store.models.create(project, made)

    refused = platform.client.delete(f"/v1/models/{checkpoint['name']}", headers=platform.headers())

    assert refused.status_code == 409 and "'made'" in refused.json["error"]["message"]
