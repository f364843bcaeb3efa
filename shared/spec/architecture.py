"""Changes to the model itself before it is trained: positions it can tell apart, its first weights, its experts."""

from __future__ import annotations

from dataclasses import dataclass

from shared.param import param


@dataclass(frozen=True, kw_only=True)
class Architecture:
    rope_scaling: str | None = param(
        None,
        "Stretch rotary positions so that samples of cutoff_len fit a model of a shorter context.",
        type=str,
        choices=("linear", "dynamic", "yarn", "llama3"),
        since=2,
        advice="yarn; the factor is cutoff_len over the model's context, rounded up.",
    )
    train_from_scratch: bool = param(
        False,
        "Begin with random weights instead of the model's own; only with finetuning_type full.",
        since=2,
        advice="false: a model of any use takes billions of tokens.",
    )
    moe_aux_loss_coef: float | None = param(
        None,
        "Weight of the loss by which a mixture of experts spreads its tokens over them. Left out: it is not used.",
        type=float,
        minimum=0.0,
        maximum=100.0,
        since=2,
        advice="0.001, for full training of a mixture of experts.",
    )
