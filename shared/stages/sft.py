"""Supervised fine-tuning: learn to answer from conversations; the loss is on the answers."""

from __future__ import annotations

from shared.stages._declaration import Stage

STAGE = Stage(
    name="sft",
    doc="Supervised fine-tuning: learn to answer from examples.",
    columns=("messages",),
    learning_rates={"lora": 1e-4, "freeze": 1e-5, "full": 1e-5},
)
