"""Kahneman-Tversky optimization: learn from single answers that are labelled desirable or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.declarations import Rates, Stage
from shared.param import param
from shared.rules import rule


@dataclass(frozen=True, kw_only=True)
class Kto:
    kto_chosen_weight: float = param(
        1.0,
        "Weight of desirable answers in the loss.",
        minimum=0.0,
        maximum=1000.0,
        advice="So that weight x number of desirable ones is 1 to 1.33 times that of the others.",
        since=2,
    )
    kto_rejected_weight: float = param(
        1.0, "Weight of undesirable answers in the loss.", minimum=0.0, maximum=1000.0, since=2
    )


@rule("kto_chosen_weight", code="invalid_value")
def some_answer_counts(spec: Any) -> str | None:
    weights = spec.plugged["kto"]
    nothing = weights.kto_chosen_weight == 0 and weights.kto_rejected_weight == 0
    return "is 0 and kto_rejected_weight too: no answer would count" if nothing else None


STAGE = Stage(
    name="kto",
    doc="Kahneman-Tversky optimization: learn from answers labelled desirable or not.",
    rows="labelled",
    rates={
        "lora": Rates(low=5e-7, high=5e-5, lf=5e-6),
        "freeze": Rates(low=1e-7, high=1e-5, lf=1e-6),
        "full": Rates(low=1e-7, high=5e-6, lf=1e-6),
    },
    params=Kto,
    rules=(some_answer_counts,),
)
