"""Trackers beside a training: files of the local ones, values equal to the job's, one run over a resume, no secrets."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training import Attempt, make_attempt, train_here

TRACKERS = ["swanlab", "tensorboard", "wandb", "mlflow", "trackio"]
SPEC = {
    "max_steps": 8, "num_train_epochs": 9, "save_strategy": "steps", "save_steps": 4, "val_size": 0.2, "eval_steps": 4,
    "report_to": TRACKERS, "wandb_mode": "offline", "run_name": "my run", "project": "mine",
    "wandb_api_key": "sealed-wandb", "hf_hub_token": "sealed-hub",
}  # fmt: skip


def tracked(
    folder: Path, tiny: Path, rows: Path, trackers: list[str], remote: Sequence[str] = (), **spec: Any
) -> Attempt:
    """An attempt folder as the worker makes it for a job with trackers."""
    attempt = make_attempt(folder, tiny, rows, **spec)
    path = folder / "run.json"
    told = {"trackers": trackers, "remote": remote, "name": None, "tags": ["team=a"], "told_until": -1}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tracking": told}))
    return attempt


def test_local_trackers_leave_the_jobs_values_with_the_model_and_go_on_after_a_resume(
    tmp_path: Path, tiny: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "sealed-wandb")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("HF_TOKEN", "sealed-hub")
    first = train_here(tracked(tmp_path / "first", tiny, rows, [], swanlab_mode="local", **SPEC))
    checkpoint = first.folder / first.of("checkpoint")[0]["path"]

    rest = train_here(
        tracked(tmp_path / "rest", tiny, rows, TRACKERS, swanlab_mode="local", resume_from=checkpoint, **SPEC)
    )

    assert {data["tracker"] for data in rest.of("tracker")} == set(TRACKERS), rest.events
    losses = {data["step"]: data["loss"] for data in first.of("metrics") if "loss" in data}
    kept = rest.output / "tracking"
    assert tensorboard(kept / "tensorboard", "train/loss") == pytest.approx(losses)
    assert mlflow(kept / "mlflow", "loss") == pytest.approx(losses)
    assert trackio(kept / "trackio" / "mine.db", "train/loss") == pytest.approx(losses)
    assert set(tensorboard(kept / "tensorboard", "eval/loss")) == {4, 8}
    assert list((kept / "wandb").rglob("*.wandb")) and list((kept / "swanlab").rglob("*.swanlab"))
    assert holding(rest.folder, b"sealed-") == []
    # SwanLab's own record alone names the folder in which it was written.
    assert {path.suffix for path in holding(kept, str(rest.folder).encode())} <= {".swanlab"}


@pytest.mark.slow
def test_a_tracker_that_cannot_work_is_one_warning_and_the_training_goes_on(
    tmp_path: Path, tiny: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:sealed-word@127.0.0.1:9/")
    monkeypatch.setenv("WANDB_API_KEY", "not-a-key")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")

    both = ["mlflow", "swanlab"]
    attempt = train_here(tracked(tmp_path / "a", tiny, rows, both, both, report_to=both, max_steps=3))

    assert attempt.outcome["type"] == "done" and len(attempt.losses) == 3
    warned = [event["message"] for event in attempt.events if event["level"] == "warning"]
    assert sorted(message.split()[0] for message in warned) == ["mlflow", "swanlab"]
    assert holding(attempt.folder, b"sealed-word") == []


def holding(folder: Path, text: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


def tensorboard(folder: Path, tag: str) -> dict[int, float]:
    read = EventAccumulator(str(folder))
    read.Reload()
    return {event.step: event.value for event in read.Scalars(tag)}


def mlflow(folder: Path, name: str) -> dict[int, float]:
    """A line a value: milliseconds, value, step."""
    (run,) = MlflowClient(folder.as_uri()).search_runs([path.name for path in folder.iterdir() if path.name.isdigit()])
    assert (run.info.status, run.data.tags["team"], run.data.params["lora_rank"]) == ("FINISHED", "a", "8")
    (path,) = folder.rglob(f"metrics/{name}")
    lines = [line.split() for line in path.read_text().splitlines()]
    assert len(lines) == len({line[2] for line in lines})
    return {int(step): float(value) for _, value, step in lines}


def trackio(path: Path, name: str) -> dict[int, float]:
    with sqlite3.connect(path) as database:
        rows = [(step, json.loads(metrics)) for step, metrics in database.execute("select step, metrics from metrics")]
    told = [(step, metrics[name]) for step, metrics in rows if name in metrics]
    assert len(told) == len(dict(told))
    return dict(told)
