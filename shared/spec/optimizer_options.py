"""What an optimizer and a schedule are told beyond rate and warmup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.fields import ObjectOrJson
from shared.param import param


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    lr_scheduler_kwargs: dict[str, Any] | None = param(
        None,
        "Options of the schedule, e.g. {min_lr: 1e-6} for cosine_with_min_lr.",
        type=dict,
        field_class=ObjectOrJson,
        source="HF",
        since=2,
    )
    optim_args: str | None = param(
        None, "Options of the optimizer, e.g. `momentum=0.9,nesterov=true` for sgd.", type=str, source="HF", since=2
    )
    use_muon: bool = param(
        False,
        "Train matrices inside the layers with Muon (orthogonalised steps), the rest with AdamW.",
        since=2,
        advice="For full training of a model that learns much anew; the learning rate is AdamW's.",
    )
