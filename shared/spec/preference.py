"""What stages that learn from preferences share: how strongly, and held near to which reference."""

from __future__ import annotations

from dataclasses import dataclass

from shared.param import param
from shared.rules import rule


@dataclass(frozen=True, kw_only=True)
class Preference:
    pref_beta: float = param(
        0.1,
        "How strongly the model is held to its reference: rewards are beta times the log-ratio of their probabilities.",
        minimum=0.0,
        exclusive_minimum=True,
        maximum=100.0,
        deprecated=("dpo_beta", "kto_beta", "orpo_beta"),
        advice="0.1; simpo: 2 to 2.5; smaller lets the model move further.",
        picture="The leash: the tighter it is held, the nearer the model stays to where it began.",
        since=2,
    )
    pref_ftx: float = param(
        0.0,
        "Weight of an added loss of stage sft on the preferred answers.",
        minimum=0.0,
        maximum=100.0,
        deprecated=("dpo_ftx", "kto_ftx"),
        advice="0.1 to 1 where the preferred answers become less likely themselves.",
        since=2,
    )
    ref_model: str | None = param(
        None,
        "Reference model. Left out: the model as it is before the training.",
        type=str,
        kind="model",
        deprecated=("ref_model_checkpoint",),
        advice="Leave it out; it must read the same tokens.",
        since=2,
    )
    ref_model_adapters: str | None = param(
        None, "Adapter of the catalog on the reference model.", type=str, kind="model", since=2
    )
    ref_model_quantization_bit: int | None = param(
        None, "Load the reference model in this many bits.", type=int, choices=(4, 8), unit="bits", since=2
    )

    @rule("ref_model_adapters")
    def adapter_of_a_named_reference(self) -> str | None:
        alone = self.ref_model_adapters is not None and self.ref_model is None
        return "is an adapter of ref_model, which is not given: name its base there" if alone else None

    @rule("ref_model_quantization_bit")
    def bits_of_a_named_reference(self) -> str | None:
        alone = self.ref_model_quantization_bit is not None and self.ref_model is None
        return "is about ref_model, which is not given: name a model there, or leave it out" if alone else None
