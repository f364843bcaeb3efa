"""Checkpoints: each holds the model as it would be published, and a training goes on from any as if nothing was."""

from __future__ import annotations

import json
import resource
import threading
import time
from pathlib import Path
from typing import Any

import published
import pytest
import torch
from training import Attempt, make_attempt, make_dataset, make_model, train_here

SAVED = {"save_strategy": "steps", "save_steps": 5}
#: 24 rows are 6 steps an epoch; a checkpoint lies within one, or where one ends.
ORDERS: dict[str, dict[str, Any]] = {
    "dropout": {"lora_dropout": 0.3, **SAVED},
    "epoch": {"save_strategy": "epoch", "lora_dropout": 0.3},
    "packing": {"packing": True, "per_device_train_batch_size": 1, "cutoff_len": 100, **SAVED},
    "lengths": {"group_by_length": True, **SAVED},
    "stream": {"streaming": True, "buffer_size": 8, "max_steps": 12, **SAVED},
    "accumulation": {"gradient_accumulation_steps": 4, "logging_steps": 3, "save_steps": 2, "save_strategy": "steps"},
}


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("held out") / "rows.json", 7)


@pytest.mark.parametrize("kind", ORDERS)
def test_order_chance_and_totals_are_those_of_an_unbroken_training(
    tmp_path: Path, tiny: Path, rows: Path, kind: str
) -> None:
    whole = train_here(make_attempt(tmp_path / "whole", tiny, rows, **ORDERS[kind]))
    checkpoint = whole.of("checkpoint")[0]

    torch.rand(7)  # chance elsewhere
    resumed = make_attempt(tmp_path / "rest", tiny, rows, resume_from=whole.folder / checkpoint["path"], **ORDERS[kind])
    rest = train_here(resumed)

    assert losses(rest) == {step: loss for step, loss in losses(whole).items() if step > checkpoint["step"]}
    assert min(losses(rest)) > checkpoint["step"] > 0
    for name in ("num_tokens", "train_loss", "num_steps"):
        assert rest.outcome["data"][name] == pytest.approx(whole.outcome["data"][name], rel=1e-12), name
    told = [data["num_tokens"] for data in whole.of("metrics") if "num_tokens" in data]
    assert checkpoint["metrics"]["num_tokens"] in told


def losses(attempt: Attempt) -> dict[int, float]:
    return {data["step"]: data["loss"] for data in attempt.of("metrics") if "loss" in data}


@pytest.mark.parametrize(
    "spec",
    [{}, {"finetuning_type": "full", "learning_rate": 1e-3}, {"pissa_init": True, "pissa_iter": -1}],
    ids=["lora", "full", "pissa"],
)
def test_the_model_of_a_checkpoint_is_the_one_that_was_validated(
    tmp_path: Path, rows: Path, held_out: Path, spec: dict[str, Any]
) -> None:
    base = make_model(tmp_path / "base", torch.bfloat16)
    spec = {"save_steps": 3, "save_strategy": "steps", "eval_steps": 3, "max_steps": 5, **spec}
    attempt = train_here(make_attempt(tmp_path / "a", base, rows, eval_dataset=held_out, **spec))

    (told,) = (data for data in attempt.of("checkpoint") if data["step"] == 3)
    folder = attempt.folder / told["model"]
    assert published.loss(attempt, base, held_out, folder) == pytest.approx(told["metrics"]["eval_loss"], rel=5e-3)
    assert not list(folder.glob("optimizer*")) and (folder / "chat_template.jinja").exists()
    config = json.loads(next(folder.glob("*config.json")).read_text())
    assert config.get("base_model_name_or_path", "tiny-base") == "tiny-base"
    if not spec.get("pissa_init") and spec.get("finetuning_type") != "full":
        state = attempt.folder / told["path"] / "adapter_model.safetensors"
        assert state.samefile(folder / "adapter_model.safetensors"), "no weight is written twice"


def test_a_better_model_later_changes_no_checkpoint_of_before(
    tmp_path: Path, tiny: Path, rows: Path, held_out: Path
) -> None:
    spec = {"load_best_model_at_end": True, "eval_steps": 2, "save_steps": 2, "save_strategy": "steps", "max_steps": 6}
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, eval_dataset=held_out, **spec))

    assert attempt.outcome["data"]["best_step"] == 6, "each validation is better than the one before"
    for told in attempt.of("checkpoint"):
        best = attempt.folder / told["path"] / "best"
        assert json.loads((best / "state.json").read_text())["step"] == told["step"]
        one, other = (place / "adapter_model.safetensors" for place in (best / "model", attempt.folder / told["model"]))
        assert one.read_bytes() == other.read_bytes()


def test_only_models_are_kept_when_asked_but_a_pause_keeps_all(tmp_path: Path, tiny: Path, rows: Path) -> None:
    from test_train_control import tell_at_step

    spec = {"save_only_model": True, "save_steps": 4, "num_train_epochs": 40, "max_steps": 3000}
    attempt = make_attempt(tmp_path / "a", tiny, rows, **{**spec, "save_strategy": "steps"})
    thread = tell_at_step(attempt, 9, "pause")
    train_here(attempt)
    thread.join()

    *usual, last = attempt.of("checkpoint")
    assert usual and all("path" not in told and "model" in told for told in usual)
    assert (attempt.folder / last["path"] / "optimizer.pt").exists()
    assert last["step"] == attempt.outcome["data"]["step"]


def test_a_checkpoint_that_cannot_be_written_costs_no_training(tmp_path: Path, tiny: Path, rows: Path) -> None:
    """The largest file that may be written is smaller than an optimizer's state, until the first checkpoint failed."""
    attempt = make_attempt(tmp_path / "a", tiny, rows, save_strategy="steps", save_steps=1, num_train_epochs=10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    thread = threading.Thread(target=lift_after_warning, args=(attempt, before))
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    thread.start()
    try:
        train_here(attempt)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        thread.join()

    assert attempt.outcome["type"] == "done" and attempt.outcome["data"]["num_steps"] == 60
    steps = [data["step"] for data in attempt.of("checkpoint")]
    assert 1 not in steps and steps[-1] == 60


def lift_after_warning(attempt: Attempt, limit: tuple[int, int]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (path := attempt.folder / "events.jsonl").exists() and "could not be written" in path.read_text():
            break
        time.sleep(0.002)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
