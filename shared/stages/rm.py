"""Reward model: learn to score answers from pairs of a better and a worse one; stage ppo is scored by it."""

from __future__ import annotations

from shared.declarations import Rates, Stage

STAGE = Stage(
    name="rm",
    doc="Reward model: learn to score answers from pairs.",
    rows="pair",
    predicts="score",
    rates={
        "lora": Rates(low=1e-5, high=5e-4, lf=1e-4),
        "freeze": Rates(low=1e-6, high=1e-4, lf=1e-5),
        "full": Rates(low=1e-6, high=3e-5, lf=1e-5),
    },
)
