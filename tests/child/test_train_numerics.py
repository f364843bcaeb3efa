"""What a training computes: the same as the plain way, the same as yesterday, the same when it is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from training import Attempt, make_attempt, make_dataset, make_model, make_tokenizer, train_here
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from shared import schema
from shared.conversation import Encoder
from shared.rows import Row
from shared.spec import TrainSpec
from trainer_worker.child import tokenizer as tokenizers
from trainer_worker.child.loss import nll
from trainer_worker.child.precision import is_fast_in_bf16

#: Losses of the twelve steps of make_attempt's spec, on one thread, torch 2.13, transformers 5.17, peft 0.21.
PINNED = {
    "lora": [
        5.900042, 5.701545, 5.614996, 5.61247, 5.608223, 5.62547, 5.618948, 5.564448, 5.585261, 5.518716, 5.389377,
        5.348022,
    ],
    "full": [
        5.900042, 5.281885, 4.529826, 4.020813, 3.593166, 3.376447, 3.215379, 3.041378, 3.12309, 2.953836, 2.901837,
        2.948575,
    ],
    "freeze": [
        5.900042, 5.661119, 5.5799, 5.614223, 5.611043, 5.621281, 5.61309, 5.576158, 5.61865, 5.576921, 5.557914,
        5.566805,
    ],
}  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "full", "freeze"])
def test_losses_are_the_pinned_ones(tmp_path: Path, tiny: Path, rows: Path, method: str) -> None:
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, finetuning_type=method, freeze_trainable_layers=1))

    assert attempt.losses == pytest.approx(PINNED[method], rel=1e-5)


def test_the_first_loss_is_that_of_the_plain_way(tmp_path: Path, tiny: Path, rows: Path) -> None:
    """One sample at a time, transformers' own attention and all logits; ours has neither padding nor other logits."""
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, per_device_train_batch_size=24, max_steps=1))

    model = AutoModelForCausalLM.from_pretrained(tiny)
    total, count = 0.0, 0
    for sample in (encoder().sample(row) for row in read(rows)):
        labels = [token if mark else -100 for token, mark in zip(sample.input_ids, sample.supervised, strict=True)]
        count += sum(label != -100 for label in labels)
        with torch.no_grad():
            logits = model(torch.tensor([sample.input_ids])).logits[0, :-1]
        total += functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum").item()
    assert attempt.losses == pytest.approx([total / count], rel=1e-5)


def test_attention_of_a_package_that_is_not_here_is_computed_otherwise_and_that_is_told(
    tmp_path: Path, tiny: Path, rows: Path
) -> None:
    ours = train_here(make_attempt(tmp_path / "ours", tiny, rows))
    asked = train_here(make_attempt(tmp_path / "asked", tiny, rows, flash_attn="fa2"))
    assert asked.losses == ours.losses
    (told,) = [event for event in asked.events if "fa2" in event["message"]]
    assert told["level"] == "warning"


@pytest.mark.parametrize("kernel", ["sdpa", "disabled"])
def test_every_attention_kernel_learns_the_same(tmp_path: Path, tiny: Path, rows: Path, kernel: str) -> None:
    ours = train_here(make_attempt(tmp_path / "ours", tiny, rows))
    theirs = train_here(make_attempt(tmp_path / "theirs", tiny, rows, flash_attn=kernel))

    assert theirs.told("attention") != ours.told("attention")
    assert theirs.losses == pytest.approx(ours.losses, rel=1e-4)


def test_packed_samples_do_not_see_each_other(tmp_path: Path, tiny: Path, rows: Path) -> None:
    """All rows in one step, packed and not: the same tokens, so the same loss."""
    spec = {"per_device_train_batch_size": 24, "max_steps": 3}
    plain = train_here(make_attempt(tmp_path / "plain", tiny, rows, **spec))
    packed = train_here(make_attempt(tmp_path / "packed", tiny, rows, neat_packing=True, **spec))

    assert packed.losses == pytest.approx(plain.losses, rel=1e-5)


def test_accumulated_batches_learn_as_one_does(tmp_path: Path, tiny: Path, rows: Path) -> None:
    """Samples have different numbers of answers' tokens: a mean of means would differ."""
    whole = train_here(make_attempt(tmp_path / "whole", tiny, rows, per_device_train_batch_size=4))
    parts = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    parted = train_here(make_attempt(tmp_path / "parts", tiny, rows, **parts))

    assert parted.losses == pytest.approx(whole.losses, rel=1e-4)


def test_recomputed_activations_change_nothing(tmp_path: Path, tiny: Path, rows: Path) -> None:
    from trainer_worker.child import memory

    kept = train_here(make_attempt(tmp_path / "kept", tiny, rows, disable_gradient_checkpointing=True))
    budget, memory.BUDGET = memory.BUDGET, dict.fromkeys(memory.BUDGET, 0.0)  # as if there were no memory
    try:
        again = train_here(make_attempt(tmp_path / "again", tiny, rows))
    finally:
        memory.BUDGET = budget

    assert again.told("gradient_checkpointing") and not kept.told("gradient_checkpointing")
    assert again.losses == pytest.approx(kept.losses, rel=1e-6)


def test_our_loss_and_its_gradient_are_pytorchs() -> None:
    torch.manual_seed(0)
    ours = torch.randn(300, 50, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    targets = torch.randint(0, 50, (300,))

    weights = torch.rand(300)
    (nll(ours, targets) * weights).sum().backward()
    (functional.cross_entropy(theirs, targets, reduction="none") * weights).sum().backward()

    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("spec", [{}, {"finetuning_type": "full"}, {"gradient_accumulation_steps": 2}])
def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, tiny: Path, rows: Path, spec: dict[str, Any]
) -> None:
    """Step 4 lies in the middle of the first epoch: optimizer, schedule, random state and order of the data count."""
    spec = {"lora_dropout": 0.1, "save_strategy": "steps", "save_steps": 4, "per_device_train_batch_size": 3} | spec
    whole = train_here(make_attempt(tmp_path / "whole", tiny, rows, **spec))
    checkpoint = whole.folder / whole.of("checkpoint")[0]["path"]

    rest = train_here(make_attempt(tmp_path / "rest", tiny, rows, resume_from=checkpoint, **spec))

    assert rest.of("metrics")[0]["step"] == 5
    assert rest.losses == whole.losses[4:]
    assert rest.outcome["data"]["num_tokens"] == whole.outcome["data"]["num_tokens"]
    assert same_weights(rest, whole)


def test_validation_is_a_mean_over_tokens(tmp_path: Path, tiny: Path, rows: Path) -> None:
    held_out = make_dataset(tmp_path / "held_out.json", 7)
    spec = {"eval_steps": 3, "per_device_eval_batch_size": 2, "compute_accuracy": True}
    attempt = train_here(
        make_attempt(tmp_path / "a", tiny, rows, eval_dataset=held_out, finetuning_type="full", **spec)
    )
    # The last validation is of the model that was saved.
    told = [data for data in attempt.of("metrics") if "eval_loss" in data]

    model = LlamaForCausalLM.from_pretrained(attempt.output)
    nll, count, right = 0.0, 0, 0
    for sample in (encoder().sample(row) for row in read(held_out)):
        with torch.no_grad():
            logits = model(torch.tensor([sample.input_ids])).logits[0, :-1]
        marks, ids = torch.tensor(sample.supervised[1:]), torch.tensor(sample.input_ids[1:])
        nll += functional.cross_entropy(logits[marks], ids[marks], reduction="sum").item()
        count += int(marks.sum())
        right += int((logits[marks].argmax(dim=1) == ids[marks]).sum())
    assert [data["step"] for data in told] == [3, 6, 9, 12]
    assert told[-1]["eval_loss"] == pytest.approx(nll / count, rel=1e-5)
    assert told[-1]["eval_accuracy"] == pytest.approx(right / count)


def test_val_size_holds_rows_out(tmp_path: Path, tiny: Path, rows: Path) -> None:
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, val_size=0.25, num_train_epochs=1))

    assert attempt.of("metrics")[-1]["total_steps"] == 5  # 18 of 24 rows in batches of 4
    assert any("eval_loss" in data for data in attempt.of("metrics"))
    # By their digests an export knows them again.
    held_out = attempt.outcome["data"]["held_out"]
    assert (held_out["from"], len(set(held_out["digests"]))) == ("val_size", 6)


@pytest.mark.parametrize("spec", [{"bf16": True}, {"pure_bf16": True}, {}, {"bf16": True, "finetuning_type": "full"}])
def test_half_precision_learns(tmp_path: Path, rows: Path, spec: dict[str, Any]) -> None:
    model = make_model(tmp_path / "model", torch.bfloat16)

    attempt = train_here(make_attempt(tmp_path / "a", model, rows, **spec))

    is_fast = torch.ops.mkldnn._is_mkldnn_bf16_supported() and is_fast_in_bf16(Path("/proc/cpuinfo").read_text())
    frozen = "float32" if spec == {} and not is_fast else "bfloat16"
    assert attempt.told("frozen") == frozen
    assert attempt.losses[-1] < attempt.losses[0] - 0.3


def same_weights(first: Attempt, second: Attempt) -> bool:
    names = [path.name for path in first.output.glob("*.safetensors")]
    pairs = [(load_file(first.output / name), load_file(second.output / name)) for name in names]
    return bool(pairs) and all(torch.equal(a[key], b[key]) for a, b in pairs for key in a.keys() | b.keys())


def encoder() -> Encoder:
    spec = schema.load(TrainSpec, {"model_name_or_path": "m", "dataset": "d", "cutoff_len": 128})
    return tokenizers.encoder(make_tokenizer(), spec)


def read(path: Path) -> list[Row]:
    return [
        Row(
            messages=[
                {"role": "user", "content": "\n".join(part for part in (row["instruction"], row["input"]) if part)},
                {"role": "assistant", "content": row["output"]},
            ]
        )
        for row in json.loads(path.read_text())
    ]
