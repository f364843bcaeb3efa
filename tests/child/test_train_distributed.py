"""Two processes on one machine, started by torchrun and by Ray as the worker starts them: the losses of one process.

Float32, a global batch of four samples: what differs is the order of sums. DeepSpeed keeps Adam's state in flat
partitions and clips with its own norm, hence its wider tolerance.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training import Attempt, make_attempt, train, train_here, train_with_ray

pytestmark = pytest.mark.timeout(600)
#: Halves of the batch of four that make_attempt's spec has.
TWO = {"num_processes": 2, "per_device_train_batch_size": 2}
RELATIVE = 1e-4
#: What runs are compared in: each way of publishing a model, with what goes through an engine's own optimizer groups.
KINDS: dict[str, dict[str, Any]] = {
    "adapter": {},
    # Another base than the catalog's: the adapter is published merged into it.
    "merged": {"loraplus_lr_ratio": 4.0, "learning_rate": 2e-3, "rope_scaling": "linear"},
    "best": {
        "finetuning_type": "full", "val_size": 4, "eval_steps": 2, "max_steps": 10, "load_best_model_at_end": True,
        # The least right, so that it is not the last.
        "compute_accuracy": True, "metric_for_best_model": "accuracy", "greater_is_better": False,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny: Path, rows: Path) -> dict[str, Attempt]:
    folder = tmp_path_factory.mktemp("alone")
    return {kind: train_here(make_attempt(folder / kind, tiny, rows, **spec)) for kind, spec in KINDS.items()}


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("merged", {}),
        pytest.param("best", {"zero_stage": 0}, marks=pytest.mark.slow),
        pytest.param("best", {"zero_stage": 1, "zero_offload": "optimizer"}, marks=pytest.mark.slow),
        pytest.param("merged", {"zero_stage": 2}, marks=pytest.mark.slow),
        ("adapter", {"deepspeed": "ds_z3_config.json"}),
        # DeepSpeed compiles its optimizer for the CPU first.
        pytest.param("best", {"zero_stage": 3, "zero_offload": "optimizer+params"}, marks=pytest.mark.slow),
        pytest.param("merged", {"use_ray": True, "ray_num_workers": 2}, marks=pytest.mark.slow),
    ],
    ids=["ddp", "zero0", "zero1-offload", "zero2", "zero3", "zero3-offload", "ray"],
)
def test_two_processes_learn_what_one_learns(
    tmp_path: Path, tiny: Path, rows: Path, alone: dict[str, Attempt], kind: str, spec: dict[str, Any]
) -> None:
    start = train_with_ray if "use_ray" in spec else train
    one = alone[kind]

    attempt = start(make_attempt(tmp_path / "a", tiny, rows, **KINDS[kind], **TWO, **spec), 2)

    assert attempt.outcome["type"] == "done"
    assert len(attempt.losses) >= 10
    assert attempt.losses == pytest.approx(one.losses, rel=RELATIVE)
    assert attempt.outcome["data"]["num_tokens"] == one.outcome["data"]["num_tokens"]
    assert close_weights(attempt, one)
    assert sorted(path.name for path in (attempt.folder / "logs").glob("rank*.log")) == ["rank0.log", "rank1.log"]
    if kind == "best":
        assert best_step(attempt) == best_step(one) == 2
        measured = [run.outcome["data"]["metrics"]["eval_loss"] for run in (attempt, one)]
        assert measured[0] == pytest.approx(measured[1], rel=RELATIVE)


@pytest.mark.slow
def test_a_rank_that_fails_says_why(tmp_path: Path, tiny: Path, rows: Path) -> None:
    attempt = make_attempt(tmp_path / "a", tiny, rows, lora_target="no_such_layer", **TWO)

    train(attempt, 2, expect=1)

    # Of the rank that failed first; it may have ended the other before that one came so far.
    told = [json.loads(path.read_text()) for path in attempt.folder.glob("error-rank*.json")]
    assert any(error["field"] == "lora_target" and "q_proj" in error["message"] for error in told)


def best_step(attempt: Attempt) -> int:
    return next(int(data["step"]) for data in attempt.of("message") if "metrics" in data)


def close_weights(first: Attempt, second: Attempt) -> bool:
    names = {path.name for one in (first, second) for path in one.output.glob("*.safetensors")}
    pairs = [(load_file(first.output / name), load_file(second.output / name)) for name in names]
    return bool(pairs) and all(
        a.keys() == b.keys() and all(torch.allclose(a[key], b[key], rtol=1e-2, atol=2e-3) for key in a)
        for a, b in pairs
    )


@pytest.mark.slow
def test_muon_and_the_best_model_with_two_processes_are_those_of_one(tmp_path: Path, tiny: Path, rows: Path) -> None:
    spec = {
        "finetuning_type": "full", "use_muon": True, "learning_rate": 1e-3, "val_size": 0.25, "eval_steps": 2,
        "load_best_model_at_end": True, "max_steps": 6,
    }  # fmt: skip
    one = train_here(make_attempt(tmp_path / "one", tiny, rows, **spec))

    two = train(make_attempt(tmp_path / "two", tiny, rows, **spec, **TWO), 2)

    # Muon multiplies in bfloat16.
    assert two.losses == pytest.approx(one.losses, rel=1e-2)
    assert close_weights(two, one)
