"""What the door accepts of LLaMA Factory's examples also trains: two steps of each file, on a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from preferring import make_labelled, make_pairs
from training import ANSWERS, make_attempt, make_dataset, train_here

from shared import yaml

FOLDER = Path(__file__).parents[1] / "lf_examples"
TABLE = yaml.parse((FOLDER / "expected.yaml").read_text())
ACCEPTED = [file for file, becomes in TABLE.items() if becomes == "train"]
#: What has to be other: the model and data, and DeepSpeed, which wants processes of its own.
LEFT_OUT = ("model_name_or_path", "dataset", "dataset_dir", "trust_remote_code", "deepspeed")
SMALL = {
    "max_steps": 2, "cutoff_len": 64, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
    "logging_steps": 1, "save_strategy": "no", "preprocessing_num_workers": 1, "dataloader_num_workers": 0,
}  # fmt: skip
#: The tiny model has two layers, not 32.
OF_TWO_LAYERS = {"freeze_trainable_layers": 2}


def make_texts(path: Path) -> Path:
    path.write_text("".join(json.dumps({"text": " ".join(ANSWERS)}) + "\n" for _ in range(16)))
    return path


ROWS = {"pt": make_texts, "dpo": make_pairs, "rm": make_pairs, "kto": make_labelled, "sft": make_dataset}


@pytest.mark.parametrize("file", ACCEPTED)
def test_an_example_that_is_accepted_trains(tmp_path: Path, tiny: Path, file: str) -> None:
    given = yaml.parse((FOLDER / file).read_text())
    spec: dict[str, Any] = {name: value for name, value in given.items() if name not in LEFT_OUT} | SMALL
    if "freeze_trainable_layers" in spec:
        spec |= OF_TWO_LAYERS
    stage = given.get("stage", "sft")
    data = ROWS[stage](tmp_path / ("rows.jsonl" if stage == "pt" else "rows.json"))
    attempt = train_here(make_attempt(tmp_path / "attempt", tiny, data, **spec))
    assert attempt.outcome["type"] == "done"
    assert len(attempt.losses) == 2 and all(math.isfinite(loss) for loss in attempt.losses)
