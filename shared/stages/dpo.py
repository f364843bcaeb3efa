"""Direct preference optimization: learn from pairs of a better and a worse answer, without a reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.declarations import Rates, Stage
from shared.param import param
from shared.rules import rule
from shared.tongues import Text

#: LF's six, and those of TRL that compare one pair at a time.
LOSSES = (
    "sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo",
    "apo_down", "apo_zero", "bco_pair", "discopop", "exo_pair", "nca_pair", "robust", "sigmoid_norm", "sppo_hard",
)  # fmt: skip
#: These compare with no reference.
REFERENCE_FREE = ("orpo", "simpo")
#: These know that labels may be wrong.
SMOOTHED = ("sigmoid", "robust", "exo_pair")


@dataclass(frozen=True, kw_only=True)
class Dpo:
    pref_loss: str = param(
        "sigmoid",
        "What a pair costs: `sigmoid` is DPO itself; `orpo` and `simpo` need no reference model.",
        choices=LOSSES,
        advice="sigmoid; simpo or orpo where memory is tight.",
        deprecated=("dpo_loss",),
        since=2,
    )
    pref_bco_weight: float = param(
        0.0,
        "Weight of an added BCO loss, which rates each answer by itself (as in mixed preference optimization).",
        minimum=0.0,
        maximum=100.0,
        since=2,
    )
    dpo_label_smoothing: float = param(
        0.0,
        "Share of pairs whose order is taken to be wrong.",
        minimum=0.0,
        maximum=0.5,
        exclusive_maximum=True,
        since=2,
    )
    simpo_gamma: float = param(
        0.5, "Margin by which `simpo` wants the better answer ahead.", minimum=0.0, maximum=100.0, since=2
    )
    ld_alpha: float | None = param(
        None,
        "Weight of the tokens by which one answer is longer than the other (LD-DPO). Left out: 1.",
        type=float,
        minimum=0.0,
        maximum=1.0,
        advice="0.3 to 0.7 where answers grow longer and longer.",
        since=2,
    )

    @rule("dpo_label_smoothing")
    def smoothing_of_losses_that_have_it(self) -> str | None:
        wrong = self.dpo_label_smoothing > 0 and self.pref_loss not in SMOOTHED
        text = "is for pref_loss {losses}, not for {given}: leave it out"
        return Text(text, losses=", ".join(SMOOTHED), given=self.pref_loss) if wrong else None

    @rule("dpo_label_smoothing")
    def exo_needs_smoothing(self) -> str | None:
        lacks = self.pref_loss == "exo_pair" and self.dpo_label_smoothing == 0
        return "is 0: pref_loss exo_pair divides by it; set it to 0.001 or more" if lacks else None

    @rule("ld_alpha")
    def length_counts_where_sums_are_compared(self) -> str | None:
        wrong = self.ld_alpha is not None and self.pref_loss in REFERENCE_FREE
        text = "is for losses that sum over tokens; {given} takes the mean: leave it out"
        return Text(text, given=self.pref_loss) if wrong else None

    @rule("pref_bco_weight")
    def bco_compares_with_a_reference(self) -> str | None:
        wrong = self.pref_bco_weight > 0 and self.pref_loss in REFERENCE_FREE
        text = "needs the reference that pref_loss {given} does without: leave it out"
        return Text(text, given=self.pref_loss) if wrong else None


@rule("ref_model")
def no_reference_for_losses_without(spec: Any) -> str | None:
    loss = spec.plugged["dpo"].pref_loss
    wrong = spec.preference.ref_model is not None and loss in REFERENCE_FREE
    text = "is given, but pref_loss {loss} compares with no reference: leave it out"
    return Text(text, loss=loss) if wrong else None


STAGE = Stage(
    name="dpo",
    doc="Direct preference optimization: learn from pairs of a better and a worse answer.",
    rows="pair",
    rates={
        "lora": Rates(low=5e-7, high=5e-5, lf=5e-6),
        "freeze": Rates(low=1e-7, high=1e-5, lf=1e-6),
        "full": Rates(low=1e-7, high=5e-6, lf=1e-6),
    },
    params=Dpo,
    rules=(no_reference_for_losses_without,),
)
