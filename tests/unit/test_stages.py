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
