"""QLoRA on this machine: a base in 4 or 8 bits by bitsandbytes, an adapter beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from published import encoder, plain_loss, read
from training import make_attempt, make_dataset, train_here
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

#: Losses of the twelve steps of make_attempt's spec, on one thread, torch 2.13, peft 0.21, bitsandbytes 0.50.
PINNED: dict[str, list[float]] = {
    "nf4": [5.902828, 5.824315, 5.806502, 5.781672, 5.739846, 5.729089, 5.70004, 5.669496, 5.615946, 5.633158,
        5.635541, 5.632564],
    "fp4": [5.898273, 5.822988, 5.813814, 5.789931, 5.745302, 5.733001, 5.702658, 5.674783, 5.619483, 5.635086,
        5.638764, 5.635654],
    "single": [5.902832, 5.824293, 5.806484, 5.781766, 5.739811, 5.728992, 5.700009, 5.669396, 5.616044, 5.633163,
        5.63555, 5.632611],
    "8 bit": [5.899778, 5.817345, 5.803956, 5.779171, 5.73736, 5.72764, 5.699791, 5.668797, 5.615313, 5.632367,
        5.635596, 5.632713],
    "norms": [5.902147, 5.823806, 5.805297, 5.780381, 5.739017, 5.727713, 5.699031, 5.668315, 5.615461, 5.632421,
        5.634687, 5.63193],
    "dora": [5.902828, 5.820222, 5.800023, 5.776206, 5.735972, 5.726128, 5.698594, 5.66924, 5.615038, 5.632209,
        5.63498, 5.632107],
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "nf4": {"quantization_bit": 4, "learning_rate": 2e-3},
    "fp4": {"quantization_bit": 4, "quantization_type": "fp4", "learning_rate": 2e-3},
    "single": {"quantization_bit": 4, "double_quantization": False, "learning_rate": 2e-3},
    "8 bit": {"quantization_bit": 8, "learning_rate": 2e-3},
    "norms": {"quantization_bit": 4, "upcast_layernorm": True, "bf16": True, "learning_rate": 2e-3},
    "dora": {"quantization_bit": 4, "use_dora": True, "learning_rate": 2e-3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_base_learns_as_pinned_and_its_adapter_works_beside_it(
    tmp_path: Path, tiny: Path, rows: Path, kind: str
) -> None:
    """Products are computed in bfloat16, which not every machine rounds alike."""
    held_out = make_dataset(tmp_path / "held_out.json", 7)
    spec = {"eval_dataset": held_out, "do_eval": True, "eval_steps": 100} | KINDS[kind]
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, **spec))

    assert attempt.losses == pytest.approx(PINNED[kind], rel=1e-3)
    own = attempt.outcome["data"]["metrics"]["eval_loss"]
    quantized = PeftModel.from_pretrained(loaded(tiny, KINDS[kind]), attempt.output).eval()
    assert plain_loss(quantized, read(held_out), encoder(attempt)) == pytest.approx(own, rel=1e-3)


def test_every_format_rounds_the_base_in_its_own_way(tmp_path: Path, tiny: Path, rows: Path) -> None:
    """The first loss tells how: nothing is learned before it."""
    specs = {"exact": {}, **{kind: KINDS[kind] for kind in ("nf4", "fp4", "single", "8 bit")}}
    first = {
        kind: train_here(make_attempt(tmp_path / kind, tiny, rows, max_steps=1, **spec)).losses[0]
        for kind, spec in specs.items()
    }

    assert len(set(first.values())) == len(first)
    assert abs(first["8 bit"] - first["exact"]) < abs(first["nf4"] - first["exact"])


def loaded(base: Path, spec: dict[str, Any]) -> Any:
    """The plain way, as bitsandbytes' own documentation has it."""
    if spec["quantization_bit"] == 8:
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=spec.get("quantization_type", "nf4"),
            bnb_4bit_use_double_quant=spec.get("double_quantization", True), bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
    return AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.float32)
