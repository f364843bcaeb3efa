"""What is remarked on trainings by preference."""

from __future__ import annotations

from typing import Any

import pytest

from shared import schema
from shared.advice.doctor import findings
from shared.spec import TrainSpec


def said(**body: Any) -> dict[str, str]:
    spec = schema.load(TrainSpec, {"model_name_or_path": "base", "dataset": "rows", **body})
    return {found.field: f"{found.severity}: {found.message}" for found in findings(spec, num_rows=1000)}


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"stage": "dpo", "lora_dropout": 0.1}, "lora_dropout", "warning: Stage dpo trains without dropout"),
        ({"stage": "sft", "pref_ftx": 0.1}, "pref_beta", "warning: pref_beta or one of its kind"),
        ({"stage": "kto", "pref_loss": "ipo"}, "pref_loss", "stage kto does not read it"),
        ({"stage": "dpo", "kto_rejected_weight": 2.0}, "kto_chosen_weight", "stage dpo does not read it"),
        ({"stage": "dpo", "finetuning_type": "full"}, "ref_model", "info: A second, frozen copy"),
        ({"stage": "kto", "per_device_train_batch_size": 1}, "per_device_train_batch_size", "on 1 answers at a time"),
    ],
)
def test_what_is_remarked(body: dict[str, Any], field: str, words: str) -> None:
    assert words in said(**body)[field]


def test_what_is_sound_is_not_remarked() -> None:
    told = said(stage="dpo", finetuning_type="full", pref_loss="simpo", pref_beta=2.0)
    assert not {"ref_model", "pref_beta", "pref_loss"} & told.keys()
