"""What each stage of a training takes and refuses."""

from __future__ import annotations

from typing import Any

import pytest

from shared import schema
from shared.errors import InvalidSpec
from shared.spec import TrainSpec

SMALL = {"model_name_or_path": "base", "dataset": "rows"}


def load(**body: Any) -> TrainSpec:
    return schema.load(TrainSpec, {**SMALL, **body})


def complaints(**body: Any) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as caught:
        load(**body)
    return {made.field: made.message for made in caught.value.complaints}


def test_texts_are_joined_unless_told_otherwise() -> None:
    assert load(stage="pt").data.packing is True
    assert load(stage="pt", packing=False).data.packing is False
    assert load(stage="sft").data.packing is False


@pytest.mark.parametrize("field", ["neat_packing", "train_on_prompt", "mask_history"])
def test_what_is_about_conversations_is_for_sft(field: str) -> None:
    assert load(stage="sft", **{field: True}).tuning.stage == "sft"
    assert "for stage sft, not for pt" in complaints(stage="pt", **{field: True})[field]


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_answers_that_are_compared_are_not_packed(stage: str) -> None:
    assert load(stage=stage, packing=False).data.packing is False
    assert load(stage=stage).data.packing is False
    assert "compares" in complaints(stage=stage, packing=True)["packing"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"dpo_label_smoothing": 0.1, "pref_loss": "hinge"}, "dpo_label_smoothing"),
        ({"dpo_label_smoothing": 0.5}, "dpo_label_smoothing"),
        ({"pref_loss": "exo_pair"}, "dpo_label_smoothing"),
        ({"pref_loss": "simpo", "ref_model": "base"}, "ref_model"),
        ({"pref_loss": "simpo", "ld_alpha": 0.5}, "ld_alpha"),
        ({"pref_loss": "orpo", "pref_bco_weight": 0.5}, "pref_bco_weight"),
        ({"pref_loss": "dpo"}, "pref_loss"),
        ({"pref_beta": 0}, "pref_beta"),
        ({"pref_ftx": -1}, "pref_ftx"),
        ({"simpo_gamma": -0.5}, "simpo_gamma"),
        ({"ld_alpha": 1.5}, "ld_alpha"),
        ({"ref_model_adapters": "an adapter"}, "ref_model_adapters"),
        ({"ref_model_quantization_bit": 4}, "ref_model_quantization_bit"),
        ({"ref_model": "base", "ref_model_quantization_bit": 3}, "ref_model_quantization_bit"),
        ({"stage": "kto", "kto_chosen_weight": 0, "kto_rejected_weight": 0}, "kto_chosen_weight"),
        ({"stage": "kto", "kto_rejected_weight": -1}, "kto_rejected_weight"),
    ],
)
def test_nonsense_about_preferences_is_refused_by_name(body: dict[str, Any], field: str) -> None:
    assert list(complaints(**({"stage": "dpo"} | body))) == [field]


def test_smoothing_goes_with_the_losses_that_have_it() -> None:
    for loss in ("sigmoid", "robust", "exo_pair"):
        assert load(stage="dpo", pref_loss=loss, dpo_label_smoothing=0.1).plugged["dpo"].pref_loss == loss
