"""Pre-training that goes on: learn to continue plain texts; every token counts."""

from __future__ import annotations

from shared.declarations import Rates, Stage

STAGE = Stage(
    name="pt",
    doc="Continued pre-training: learn from plain texts.",
    rows="text",
    rates={
        "lora": Rates(low=2e-5, high=5e-4, paper=5e-5, lf=1e-4),
        "freeze": Rates(low=1e-6, high=1e-4, paper=5e-6, lf=1e-5),
        "full": Rates(low=1e-6, high=5e-5, paper=5e-6, lf=1e-5),
    },
)
