"""Supervised fine-tuning: learn to answer from conversations; the loss is on the answers."""

from __future__ import annotations

from shared.declarations import Rates, Stage

STAGE = Stage(
    name="sft",
    doc="Supervised fine-tuning: learn to answer from examples.",
    rows="messages",
    rates={
        "lora": Rates(low=2e-5, high=5e-4, paper=5e-5, lf=1e-4),
        "freeze": Rates(low=1e-6, high=1e-4, paper=5e-6, lf=1e-5),
        "full": Rates(low=1e-6, high=2e-5, paper=5e-6, lf=1e-5),
    },
)
