"""Stage dpo: pinned losses, references of every kind, resuming, several processes, and what is told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from preferring import make_pairs
from test_train_control import tell_at_step
from training import Attempt, make_attempt, make_model, train, train_here

from shared.errors import InvalidSpec

LN2 = math.log(2)
#: Members of a metrics event besides those of every stage.
TOLD = {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pairs(tmp_path_factory.mktemp("pairs") / "pairs.json")


def dpo(folder: Path, model: Path, data: Path, **spec: Any) -> Attempt:
    given = {"stage": "dpo", "learning_rate": 2e-3, "num_train_epochs": 1, "pref_beta": 0.5}
    return make_attempt(folder, model, data, **(given | spec))


@pytest.mark.parametrize(
    ("method", "expected"), [("lora", [LN2, 0.45409378]), ("full", [LN2, 0.04807376]), ("freeze", [LN2, 0.06970073])]
)
def test_losses_are_pinned_and_begin_where_nothing_is_preferred(
    tmp_path: Path, tiny: Path, pairs: Path, method: str, expected: list[float]
) -> None:
    attempt = train_here(dpo(tmp_path / "a", tiny, pairs, finetuning_type=method))

    assert attempt.losses[:2] == pytest.approx(expected, rel=1e-5)
    assert attempt.of("metrics")[0].keys() >= TOLD
    assert attempt.of("metrics")[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)


def test_what_is_preferred_becomes_likelier(tmp_path: Path, tiny: Path, pairs: Path) -> None:
    attempt = train_here(dpo(tmp_path / "a", tiny, pairs, num_train_epochs=4, val_size=0.25, do_eval=True))

    first, last = attempt.of("metrics")[0], attempt.outcome["data"]["metrics"]
    assert last["rewards/accuracies"] == 1 and last["eval_rewards/accuracies"] == 1
    assert last["eval_loss"] < LN2 - 0.3
    assert last["logps/chosen"] - last["logps/rejected"] > first["logps/chosen"] - first["logps/rejected"]


def test_tokens_of_both_answers_are_counted(tmp_path: Path, tiny: Path, pairs: Path) -> None:
    attempt = train_here(dpo(tmp_path / "a", tiny, pairs))

    stats = attempt.of("message")[0]
    assert stats["num_rows"] == 16 and stats["num_samples"] == 32
    assert attempt.outcome["data"]["num_tokens"] == stats["num_tokens"]


def test_accumulated_batches_learn_as_one_does(tmp_path: Path, tiny: Path, pairs: Path) -> None:
    whole = train_here(dpo(tmp_path / "whole", tiny, pairs, pref_ftx=0.5))
    parts = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    parted = train_here(dpo(tmp_path / "parts", tiny, pairs, pref_ftx=0.5, **parts))

    assert parted.losses == pytest.approx(whole.losses, rel=1e-4)
    for name in TOLD:
        values = [[data[name] for data in one.of("metrics")] for one in (parted, whole)]
        assert values[0] == pytest.approx(values[1], rel=1e-3, abs=1e-4)


def test_padded_batches_learn_as_flat_ones(tmp_path: Path, tiny: Path, pairs: Path) -> None:
    from trainer_worker.child import attention

    flat = train_here(dpo(tmp_path / "flat", tiny, pairs))
    layers, attention.PLAIN_LAYERS = attention.PLAIN_LAYERS, frozenset()  # as if no layer were an ordinary one
    try:
        padded = train_here(dpo(tmp_path / "padded", tiny, pairs))
    finally:
        attention.PLAIN_LAYERS = layers

    assert padded.losses == pytest.approx(flat.losses, rel=1e-4)


@pytest.mark.parametrize("spec", [{"pref_bco_weight": 0.5}, {"finetuning_type": "full"}], ids=["bco", "full"])
def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, tiny: Path, pairs: Path, spec: dict[str, Any]
) -> None:
    spec = {"save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 3} | spec
    whole = train_here(dpo(tmp_path / "whole", tiny, pairs, **spec))
    checkpoint = whole.folder / whole.of("checkpoint")[0]["path"]

    rest = train_here(dpo(tmp_path / "rest", tiny, pairs, resume_from=checkpoint, **spec))

    assert rest.of("metrics")[0]["step"] == 4
    assert rest.losses == whole.losses[3:]
    assert rest.of("metrics")[-1]["rewards/margins"] == whole.of("metrics")[-1]["rewards/margins"]


def test_an_adapter_that_is_trained_on_is_held_to_what_it_was(
    tmp_path: Path, tiny: Path, rows: Path, pairs: Path
) -> None:
    """Not to the base: after stage sft that would be another model."""
    first = train_here(make_attempt(tmp_path / "sft", tiny, rows))
    spec = {"save_strategy": "steps", "save_steps": 2}
    second = train_here(dpo(tmp_path / "dpo", tiny, pairs, adapter=first.output, **spec))
    checkpoint = second.folder / second.of("checkpoint")[0]["path"]
    rest = train_here(dpo(tmp_path / "rest", tiny, pairs, adapter=first.output, resume_from=checkpoint, **spec))

    assert second.losses[0] == pytest.approx(LN2, rel=1e-6) and second.losses[-1] < LN2 - 0.1
    assert rest.losses == second.losses[2:]
    assert not list(second.output.glob("reference*"))
    assert (second.output / "adapter_model.safetensors").is_file()


def test_a_named_reference_is_another_start(tmp_path: Path, tiny: Path, pairs: Path) -> None:
    tuned = train_here(dpo(tmp_path / "tuned", tiny, pairs, finetuning_type="full"))
    adapted = train_here(dpo(tmp_path / "adapted", tiny, pairs))
    spec = {"ref_model": "other", "max_steps": 1}
    again = train_here(dpo(tmp_path / "a", tiny, pairs, inputs={"ref_model_path": tuned.output}, **spec))
    beside = {"ref_model_path": tiny, "ref_adapter_path": adapted.output}
    third = train_here(dpo(tmp_path / "b", tiny, pairs, inputs=beside, **spec))

    assert again.losses[0] > LN2 + 0.05 and third.losses[0] > LN2 + 0.05


def test_a_reference_that_reads_other_tokens_is_refused(tmp_path: Path, tiny: Path, pairs: Path) -> None:
    other = make_model(tmp_path / "other", vocab_size=500)

    with pytest.raises(InvalidSpec) as raised:
        train_here(dpo(tmp_path / "a", tiny, pairs, ref_model="other", inputs={"ref_model_path": other}))
    assert raised.value.field == "ref_model"


@pytest.mark.parametrize("loss", ["orpo", "simpo"])
def test_losses_without_a_reference_load_none(tmp_path: Path, tiny: Path, pairs: Path, loss: str) -> None:
    attempt = train_here(dpo(tmp_path / "a", tiny, pairs, finetuning_type="full", pref_loss=loss, num_train_epochs=2))

    assert not any("reference" in event["message"] for event in attempt.events)
    assert attempt.losses[-1] < attempt.losses[0]
    assert ("odds_ratio_loss" in attempt.of("metrics")[0]) == (loss == "orpo")


def test_pause_saves_a_checkpoint(tmp_path: Path, tiny: Path, pairs: Path) -> None:
    spec = {"num_train_epochs": 400, "save_strategy": "steps", "save_steps": 10_000, "learning_rate": 1e-5}
    attempt = dpo(tmp_path / "a", tiny, pairs, **spec)
    thread = tell_at_step(attempt, 3, "pause")
    train_here(attempt)
    thread.join()

    assert attempt.outcome["type"] == "stopped"
    assert attempt.of("checkpoint")[-1]["step"] == attempt.outcome["data"]["step"] >= 3


@pytest.mark.parametrize(
    ("spec", "tolerance"),
    [
        pytest.param({"zero_stage": 2}, 1e-4, marks=pytest.mark.slow),
        pytest.param(
            {"finetuning_type": "full", "pref_loss": "kto_pair", "pref_bco_weight": 0.5}, 1e-4, marks=pytest.mark.slow
        ),
        pytest.param({"finetuning_type": "full", "zero_stage": 3}, 1e-4, marks=pytest.mark.slow),
    ],
    ids=["zero2-lora", "ddp-full", "zero3-full"],
)
def test_two_processes_learn_what_one_learns(
    tmp_path: Path, tiny: Path, pairs: Path, spec: dict[str, Any], tolerance: float
) -> None:
    one = {name: value for name, value in spec.items() if name != "zero_stage"}
    alone = train_here(dpo(tmp_path / "alone", tiny, pairs, **one))
    two = train(dpo(tmp_path / "two", tiny, pairs, num_processes=2, per_device_train_batch_size=2, **spec), 2)

    assert two.losses == pytest.approx(alone.losses, rel=tolerance)
    for name in TOLD:
        values = [[data[name] for data in attempt.of("metrics")] for attempt in (two, alone)]
        assert values[0] == pytest.approx(values[1], rel=1e-2, abs=1e-3)


def test_half_precision_begins_at_the_reference_too(tmp_path: Path, pairs: Path) -> None:
    model = make_model(tmp_path / "model", torch.bfloat16)
    attempt = train_here(dpo(tmp_path / "a", model, pairs, finetuning_type="full", bf16=True, max_steps=1))

    assert attempt.losses[0] == pytest.approx(LN2, rel=1e-6)
