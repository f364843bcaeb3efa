"""The memory of one spec under every way to share, offload, adapt and compute it: the table of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from shared.advice import footprint
from shared.advice.cards import Cards
from shared.advice.fit import Fitted, changed
from shared.advice.memory import estimate
from shared.advice.shapes import Shape
from shared.spec import TrainSpec

COLUMNS = (
    "zero_stage", "offload", "method", "attention", "checkpointing", "total_gib", "host_gib", "verdict",
)  # fmt: skip
#: What each stage of ZeRO can offload here.
SHARED = (
    (0, "none"),
    (1, "none"),
    (2, "none"),
    (2, "optimizer"),
    (3, "none"),
    (3, "optimizer"),
    (3, "optimizer+params"),
)
#: Method of the table -> what it sets.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "lora": {"finetuning_type": "lora", "quantization_bit": None},
    "qlora": {"finetuning_type": "lora", "quantization_bit": 4},
    "full": {"finetuning_type": "full", "quantization_bit": None},
}


def table(spec: TrainSpec, shape: Shape, cards: Cards, length_max: int | None = None) -> dict[str, Any]:
    """Compact: names of columns once, then rows; `total_gib` on one card, `host_gib` on one machine."""
    rows = [list(row) for row in _rows(spec, shape, cards, length_max)]
    return {"columns": list(COLUMNS), "rows": rows}


def without_verdicts(made: dict[str, Any]) -> dict[str, Any]:
    """Where no card is known, nothing fits or does not."""
    return {"columns": made["columns"][:-1], "rows": [row[:-1] for row in made["rows"]]}


def _rows(spec: TrainSpec, shape: Shape, cards: Cards, length_max: int | None) -> Iterator[tuple[Any, ...]]:
    for method, values in METHODS.items():
        engine = {"deepspeed": None}
        for stage, offload in SHARED:
            if method == "qlora" and stage == 3:
                continue  # 4-bit weights cannot be shared by ZeRO-3
            made = changed(spec, {**values, **engine, "zero_stage": 0 if stage else None})
            base = footprint.training(
                made, shape, num_devices=cards.count, has_bf16=cards.has_bf16, length_max=length_max
            )
            shared = replace(base, zero=stage or None, offload=offload)
            for is_eager, checkpointing in ((False, True), (False, False), (True, True), (True, False)):
                training = replace(shared, is_eager=is_eager, checkpointing=checkpointing)
                fitted = Fitted(training=training, memory=estimate(training), cards=cards)
                attention = "eager" if is_eager else "flash"
                numbers = round(fitted.gib, 1), round(fitted.host_gib, 1)
                yield stage, offload, method, attention, checkpointing, *numbers, fitted.verdict
