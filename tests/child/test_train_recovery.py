"""Memory that really does not suffice: this process may take so much more and no more, and a step needs it."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from training import Attempt, make_attempt, make_model, train_here

from shared import recovery, tail
from shared.job import Job, Kind, Status, Wanted
from trainer_worker.child import __main__ as child
from trainer_worker.child import extensions, prepare

#: A row of 480 learned tokens needs 61 MB for its logits alone, and two or three times that in the backward pass.
VOCABULARY, ROOM_BYTES = 32_000, 450 * 2**20
SPEC: dict[str, Any] = {
    "per_device_train_batch_size": 8, "num_train_epochs": 1, "disable_shuffling": True, "cutoff_len": 512,
    "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-3, "disable_gradient_checkpointing": True,
}  # fmt: skip


@contextmanager
def little_memory() -> Iterator[None]:
    """As a worker's TUNESMITH_PROCESS_MEMORY_GIB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    used = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmData:"))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + ROOM_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def job(attempt: Attempt, adjustments: Mapping[str, Any]) -> Job:
    spec = json.loads((attempt.folder / "run.json").read_text())["spec"]
    return Job(
        id="ftjob-test", project_id="p", kind=Kind.TRAIN, status=Status.RUNNING, wanted=Wanted.RUN,
        spec=spec | SPEC, adjustments=dict(adjustments), created_at=datetime.now(UTC),
    )  # fmt: skip


def fail_here(attempt: Attempt, adjustments: Mapping[str, Any]) -> recovery.Answer:
    """What comes of an attempt in which memory does not suffice."""
    told = child.Attempt(attempt.folder)
    prepare.prepare(told)
    with little_memory():
        assert child.run(told, 0) == 1
    outcome = tail.read(attempt.folder / "events.jsonl", 0).outcome
    assert outcome is not None and outcome.type == "failed"
    return recovery.answer(job(attempt, adjustments), outcome.data["error"], attempt.folder)


def make(folder: Path, model: Path, rows: Path, adjustments: Mapping[str, Any], resume: Path | None) -> Attempt:
    """As the worker makes the folder of an attempt with adjustments."""
    given = {name: value for name, value in adjustments.items() if name != "gradient_checkpointing"}
    attempt = make_attempt(folder, model, rows, resume_from=resume, **SPEC | given)
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"adjustments": dict(adjustments)}))
    return attempt


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "wide", vocab_size=VOCABULARY)


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two batches of short rows, then one of long ones."""
    path = tmp_path_factory.mktemp("data") / "growing.json"
    rows = [{"instruction": f"Number {i}?", "output": "a b c d " * (120 if i >= 16 else 1) + str(i)} for i in range(24)]
    path.write_text(json.dumps(rows))
    return path


def test_after_memory_did_not_suffice_the_same_steps_are_done_with_less(
    tmp_path: Path, wide: Path, growing: Path
) -> None:
    whole = train_here(make_attempt(tmp_path / "whole", wide, growing, **SPEC))
    adjustments: dict[str, Any] = {}
    resume, losses = None, []
    for number in range(2):
        attempt = make(tmp_path / f"attempt-{number}", wide, growing, adjustments, resume)
        answer = fail_here(attempt, adjustments)
        losses += attempt.losses
        assert answer.error["code"] == "host_out_of_memory"
        details = answer.error["details"]
        assert details["at"] == "training" and details["asked_gib"] > 0.05
        assert details["micro_batch"] == 8 // 2**number and 400 < details["longest"] <= 512
        assert details["estimate_gib"]["logits"] > 0 and details["total_gib"] > details["asked_gib"]
        assert answer.adjustments is not None
        adjustments |= answer.adjustments
        if checkpoints := attempt.of("checkpoint"):
            resume = attempt.folder / checkpoints[-1]["path"]

    assert adjustments == {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    adjustments |= {"gradient_checkpointing": True, "disable_gradient_checkpointing": False}
    last = make(tmp_path / "last", wide, growing, adjustments, resume)
    with little_memory():
        train_here(last)

    assert any(data.get("gradient_checkpointing") is True for data in last.of("message"))
    assert [data["step"] for data in last.of("metrics")] == [3]
    assert losses + last.losses == pytest.approx(whole.losses, abs=1e-4)


@pytest.mark.parametrize("order", ["random", "group_by_length"])
def test_a_step_has_the_same_samples_in_smaller_batches(tmp_path: Path, tiny: Path, rows: Path, order: str) -> None:
    spec = {"train_sampling_strategy": order, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4}
    whole = train_here(make_attempt(tmp_path / "whole", tiny, rows, per_device_train_batch_size=6, **spec))
    checkpoint = whole.folder / whole.of("checkpoint")[0]["path"]

    smaller = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    rest = train_here(make_attempt(tmp_path / "rest", tiny, rows, resume_from=checkpoint, **spec | smaller))

    assert rest.of("metrics")[0]["step"] == 5
    assert rest.losses == pytest.approx(whole.losses[4:], abs=1e-4)


def test_a_lock_of_a_compilation_that_nobody_does_any_more_is_removed(tmp_path: Path) -> None:
    left, held, young = (tmp_path / name / "lock" for name in ("left", "py311_cpu/held", "young"))
    for lock in (left, held, young):
        lock.parent.mkdir(parents=True)
        lock.touch()
    for lock in (left, held):
        os.utime(lock, (1, 1))

    with held.open():
        assert extensions.remove_stale_locks(tmp_path) == [left]

    assert [lock.exists() for lock in (left, held, young)] == [False, True, True]
