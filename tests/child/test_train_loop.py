"""How the weights are changed and when that ends: optimizers, schedules, the best model, the order of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import published
import pytest
import torch
from training import Attempt, make_attempt, make_dataset, make_model, train_here
from transformers import AutoModelForCausalLM

from shared.errors import InvalidSpec

#: Losses of the twelve steps of make_attempt's spec, on one thread, torch 2.13, transformers 5.17.
PINNED: dict[str, list[float]] = {
    "cosine_with_min_lr": [5.900042, 5.663345, 5.540195, 5.458849, 5.362266, 5.29701, 5.214065, 5.115864, 5.023786,
        4.964866, 4.889262, 4.827399],
    "adamw_torch_fused": [5.900042, 5.701545, 5.614996, 5.61247, 5.608223, 5.62547, 5.618948, 5.564448, 5.585261,
        5.518716, 5.389377, 5.348023],
    "adafactor": [5.900042, 5.649332, 5.502847, 5.443954, 5.344028, 5.262547, 5.149813, 5.078206, 4.985334, 4.945241,
        4.899494, 4.873785],
    "sgd": [5.900042, 5.82537, 5.802378, 5.75804, 5.699787, 5.685473, 5.662924, 5.621156, 5.592762, 5.598802,
        5.600912, 5.605381],
    "adagrad": [5.900042, 5.701541, 5.602042, 5.615774, 5.594665, 5.593915, 5.559781, 5.491367, 5.426661, 5.357613,
        5.293153, 5.271786],
    "rmsprop": [5.900042, 5.508268, 5.313002, 5.146995, 4.971323, 4.842842, 4.717895, 4.623171, 4.545177, 4.486046,
        4.430889, 4.41472],
    "adamw_8bit": [5.900042, 5.663345, 5.549225, 5.478799, 5.396817, 5.348063, 5.286011, 5.210626, 5.13713, 5.118448,
        5.08765, 5.073145],
    "paged_adamw_32bit": [5.900042, 5.663345, 5.549219, 5.478791, 5.396804, 5.348065, 5.286017, 5.210617, 5.137116,
        5.118449, 5.087653, 5.073149],
    "lion_8bit": [5.900042, 5.836872, 5.85118, 5.846364, 5.819443, 5.817409, 5.780589, 5.785461, 5.726875, 5.743354,
        5.758928, 5.747236],
    "ademamix": [5.900042, 5.663319, 5.549154, 5.478689, 5.396657, 5.347868, 5.285765, 5.210301, 5.136765, 5.11802,
        5.087154, 5.072613],
    "rmsprop_bnb": [5.900042, 5.281777, 4.712219, 4.223835, 3.849399, 3.642908, 3.495368, 3.34601, 3.387637, 3.251973,
        3.172869, 3.171322],
    "warmup_stable_decay": [5.900042, 5.862982, 5.824322, 5.71025, 5.635662, 5.642739, 5.633948, 5.590199, 5.607419,
        5.590524, 5.578415, 5.588373],
    "polynomial": [5.900042, 5.701545, 5.618011, 5.614807, 5.609593, 5.626748, 5.623206, 5.575237, 5.579952, 5.571684,
        5.547372, 5.538472],
    "muon": [5.900042, 5.760656, 5.703232, 5.644931, 5.565392, 5.515741, 5.439881, 5.40619, 5.305331, 5.310971,
        5.304578, 5.283701],
    "muon on lora": [5.900042, 5.860255, 5.897649, 5.90665, 5.894388, 5.901489, 5.876768, 5.899078, 5.858291,
        5.874309, 5.895126, 5.886967],
}  # fmt: skip
FULL: dict[str, Any] = {"finetuning_type": "full", "learning_rate": 1e-3}
KINDS: dict[str, dict[str, Any]] = {
    "adamw_torch_fused": {"optim": "adamw_torch_fused"},
    "adafactor": {"optim": "adafactor", **FULL},
    "sgd": {"optim": "sgd", "optim_args": "momentum=0.9, nesterov=true", "learning_rate": 0.05},
    "adagrad": {"optim": "adagrad"},
    "rmsprop": {"optim": "rmsprop", "optim_args": "alpha=0.9", **FULL},
    "adamw_8bit": {"optim": "adamw_8bit", **FULL},
    "paged_adamw_32bit": {"optim": "paged_adamw_32bit", **FULL},
    "lion_8bit": {"optim": "lion_8bit", "learning_rate": 1e-4, "finetuning_type": "full"},
    "ademamix": {"optim": "ademamix", "optim_args": "alpha=2.0", **FULL},
    "rmsprop_bnb": {"optim": "rmsprop_bnb", **FULL},
    "cosine_with_min_lr": {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.5},
        **FULL,
    },
    "warmup_stable_decay": {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 3},
    "polynomial": {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": '{"power": 2, "lr_end": 0.001}'},
    "muon": {"use_muon": True, **FULL},
    "muon on lora": {"use_muon": True, "learning_rate": 1e-3},
}
#: Muon multiplies in bfloat16, which is not the same on every machine.
LOOSE = {"muon", "muon on lora"}
#: Validated on rows that get the less likely the more is learned.
WATCHED: dict[str, Any] = {"eval_steps": 2, "learning_rate": 5e-2, "finetuning_type": "full", "num_train_epochs": 3}


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("held out") / "rows.json", 7)


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers of characters that no trained answer has."""
    path = tmp_path_factory.mktemp("strange") / "rows.json"
    path.write_text(json.dumps([{"instruction": "Why?", "output": "#~^ 0451 |{} <=> 92 ~~ @@ %% ;; ~"}] * 4))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_or_schedule_learns_as_pinned(tmp_path: Path, tiny: Path, rows: Path, kind: str) -> None:
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, **KINDS[kind]))

    assert attempt.losses == pytest.approx(PINNED[kind], rel=1e-2 if kind in LOOSE else 1e-5)


def test_muon_steps_by_a_fifth_of_the_rate_and_leaves_words_to_adamw(tmp_path: Path, tiny: Path, rows: Path) -> None:
    spec = {"finetuning_type": "full", "use_muon": True, "learning_rate": 1e-3, "max_steps": 1}
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, **spec))

    made, was = AutoModelForCausalLM.from_pretrained(attempt.output), AutoModelForCausalLM.from_pretrained(tiny)
    steps = {name: weight - was.get_parameter(name) for name, weight in made.named_parameters()}
    matrices = [step.square().mean().sqrt().item() for name, step in steps.items() if name.endswith("_proj.weight")]
    assert len(matrices) == 14 and all(0.9e-4 < step < 2.4e-4 for step in matrices), matrices
    # Adam's first step is the rate itself, wherever a word occurred.
    assert steps["model.embed_tokens.weight"].abs().max().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("spec", [{"use_muon": True}, {"load_best_model_at_end": True, "eval_steps": 3}])
def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, tiny: Path, rows: Path, held_out: Path, spec: dict[str, Any]
) -> None:
    spec = {"save_strategy": "steps", "save_steps": 4, "eval_dataset": held_out, **FULL} | spec
    whole = train_here(make_attempt(tmp_path / "whole", tiny, rows, **spec))
    checkpoint = whole.folder / whole.of("checkpoint")[0]["path"]

    rest = train_here(make_attempt(tmp_path / "rest", tiny, rows, resume_from=checkpoint, **spec))

    assert rest.losses == pytest.approx(whole.losses[4:], rel=1e-6)
    assert published.loss(rest, tiny, held_out) == pytest.approx(published.loss(whole, tiny, held_out), rel=1e-6)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_best_model_is_published_also_by_the_attempt_after(
    tmp_path: Path, tiny: Path, rows: Path, strange: Path, method: str
) -> None:
    """The best validation lies before the checkpoint from which the second attempt goes on."""
    spec = WATCHED | {"finetuning_type": method, "load_best_model_at_end": True, "eval_dataset": strange}
    spec |= {"save_strategy": "steps", "save_steps": 14}
    whole = train_here(make_attempt(tmp_path / "whole", tiny, rows, **spec))
    checkpoint = whole.folder / whole.of("checkpoint")[0]["path"]
    rest = train_here(make_attempt(tmp_path / "rest", tiny, rows, resume_from=checkpoint, **spec))

    losses = evaluations(whole)
    best = min(losses.values())
    assert losses[max(losses)] > best * 1.01 and min(losses, key=losses.__getitem__) < 14
    for attempt in (whole, rest):
        assert attempt.outcome["data"]["metrics"]["eval_loss"] == pytest.approx(best, rel=1e-6)
        assert published.loss(attempt, tiny, strange) == pytest.approx(best, rel=1e-4)


def test_the_best_model_comes_out_in_the_format_it_came_in(
    tmp_path: Path, tiny: Path, rows: Path, held_out: Path
) -> None:
    base = make_model(tmp_path / "base", torch.bfloat16)
    spec = {"finetuning_type": "full", "load_best_model_at_end": True, "eval_steps": 1, "max_steps": 2}
    attempt = train_here(make_attempt(tmp_path / "a", base, rows, eval_dataset=held_out, **spec))

    made = AutoModelForCausalLM.from_pretrained(attempt.output)
    assert made.dtype == torch.bfloat16 and made.config.use_cache


def test_a_training_that_gets_no_better_ends(tmp_path: Path, tiny: Path, rows: Path, strange: Path) -> None:
    spec = WATCHED | {"early_stopping_steps": 2, "eval_dataset": strange}
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, **spec))

    losses = evaluations(attempt)
    best = min(losses, key=losses.__getitem__)
    assert attempt.outcome["type"] == "done"
    assert attempt.outcome["data"]["num_steps"] == best + 2 * 2 < 18


def test_a_metric_that_is_not_measured_is_refused_with_those_that_are(
    tmp_path: Path, tiny: Path, rows: Path, held_out: Path
) -> None:
    spec = {"early_stopping_steps": 2, "metric_for_best_model": "rewards/margins", "eval_steps": 1}
    with pytest.raises(InvalidSpec, match="validation measures loss") as raised:
        train_here(make_attempt(tmp_path / "a", tiny, rows, eval_dataset=held_out, **spec))
    assert raised.value.field == "metric_for_best_model"


def test_the_rate_falls_on_a_plateau(tmp_path: Path, tiny: Path, rows: Path, strange: Path) -> None:
    spec = WATCHED | {
        "lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"factor": 0.1, "patience": 0},
        "eval_dataset": strange,
    }  # fmt: skip
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, **spec))

    rates = [data["learning_rate"] for data in attempt.of("metrics") if "learning_rate" in data]
    assert rates[0] == pytest.approx(5e-2) and rates[-1] <= 5e-3


def test_validation_begins_when_it_is_asked_to(tmp_path: Path, tiny: Path, rows: Path, held_out: Path) -> None:
    early = train_here(
        make_attempt(tmp_path / "a", tiny, rows, eval_dataset=held_out, eval_steps=4, eval_on_start=True)
    )
    late = train_here(make_attempt(tmp_path / "b", tiny, rows, eval_dataset=held_out, eval_steps=4, eval_delay=8))

    assert sorted(evaluations(early)) == [0, 4, 8, 12] and sorted(evaluations(late)) == [8, 12]


def test_the_order_of_the_data_has_a_seed_of_its_own(tmp_path: Path, tiny: Path, rows: Path) -> None:
    """The first batch's loss tells which samples are in it: nothing else is random before it."""
    first = {
        name: train_here(make_attempt(tmp_path / name, tiny, rows, max_steps=1, **spec)).losses[0]
        for name, spec in {
            "plain": {}, "same": {"seed": 7, "data_seed": 42}, "other": {"data_seed": 7},
            "files": {"train_sampling_strategy": "sequential"}, "unshuffled": {"disable_shuffling": True},
        }.items()
    }  # fmt: skip

    assert first["same"] == first["plain"] != first["other"]
    assert first["files"] == first["unshuffled"] != first["plain"]


def test_metrics_are_told_when_it_is_asked(tmp_path: Path, tiny: Path, rows: Path) -> None:
    epochs = train_here(make_attempt(tmp_path / "a", tiny, rows, logging_strategy="epoch"))
    end = train_here(make_attempt(tmp_path / "b", tiny, rows, logging_strategy="no"))

    assert [data["step"] for data in epochs.of("metrics")] == [6, 12]
    assert [data["step"] for data in end.of("metrics")] == [12]


def test_full_determinism_learns_the_same(tmp_path: Path, tiny: Path, rows: Path) -> None:
    plain = train_here(make_attempt(tmp_path / "a", tiny, rows, max_steps=3))
    try:
        strict = train_here(make_attempt(tmp_path / "b", tiny, rows, max_steps=3, full_determinism=True))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert strict.losses == pytest.approx(plain.losses, rel=1e-6)


def evaluations(attempt: Attempt) -> dict[int, float]:
    """Validation loss by step; the last of each."""
    return {data["step"]: data["eval_loss"] for data in attempt.of("metrics") if "eval_loss" in data}
