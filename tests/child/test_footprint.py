"""What the estimate takes for trained is what the trainer trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training import make_attempt, train_here

from shared import schema
from shared.advice import footprint, shapes
from shared.spec import TrainSpec


@pytest.mark.parametrize(
    "body",
    [
        {"lora_rank": 4},
        {"lora_rank": 4, "lora_target": "q_proj,v_proj"},
        {"lora_rank": 4, "use_dora": True},
        {"finetuning_type": "full"},
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1, "freeze_trainable_modules": "mlp"},
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1, "freeze_extra_modules": "embed_tokens"},
    ],
)
def test_as_many_weights_are_counted_as_are_trained(
    tmp_path: Path, tiny: Path, rows: Path, body: dict[str, Any]
) -> None:
    run = train_here(make_attempt(tmp_path / "run", tiny, rows, max_steps=1, **body))
    told = next(event for event in run.of("message") if "num_trained" in event)
    spec = schema.load(TrainSpec, {"model_name_or_path": "tiny", "dataset": "rows", **body})
    shape = shapes.read(json.loads((tiny / "config.json").read_text()))
    assert footprint.count_trained(spec, shape) == told["num_trained"]
