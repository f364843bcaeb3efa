"""Changes to a model's configuration before it is built: stretched positions, a loss for its experts."""

from __future__ import annotations

import math
from typing import Any

from transformers import PretrainedConfig

from shared.errors import InvalidSpec
from trainer_worker.child.context import Context

#: Llama 3.1's own values.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


def adapt(config: PretrainedConfig, context: Context) -> PretrainedConfig:
    """Raises InvalidSpec for what the architecture does not have."""
    given = context.spec.architecture
    text_config = config.get_text_config()
    if given.rope_scaling is not None:
        stretch(text_config, given.rope_scaling, context)
    if given.moe_aux_loss_coef is not None:
        if not hasattr(text_config, "router_aux_loss_coef"):
            text = f"is of mixtures of experts, which {config.model_type} is not: leave it out"
            raise InvalidSpec(text, field="moe_aux_loss_coef")
        text_config.output_router_logits, text_config.router_aux_loss_coef = True, given.moe_aux_loss_coef
    return config


def stretch(config: PretrainedConfig, kind: str, context: Context) -> None:
    """As LF: cutoff_len over the context of before, rounded up; nothing where the context suffices."""
    before, wanted = native_context(config), context.spec.data.cutoff_len
    if wanted <= before:
        text = f"The model reads {before} tokens, cutoff_len is {wanted}: positions are not stretched"
        context.emit("finding", text, "warning", field="rope_scaling")
        return
    factor = float(math.ceil(wanted / before))
    scaling = {"rope_type": kind, "factor": factor}
    if kind != "linear":
        scaling["original_max_position_embeddings"] = before
    config.rope_parameters = _plain(config) | scaling | (LLAMA3 if kind == "llama3" else {})
    config.max_position_embeddings = int(before * factor)
    context.emit("message", f"The model reads {config.max_position_embeddings} tokens instead of {before}")


def native_context(config: PretrainedConfig) -> int:
    """Positions that the model was trained with, before any stretching."""
    kept = getattr(config, "rope_parameters", None) or {}
    return int(kept.get("original_max_position_embeddings") or config.max_position_embeddings)


def _plain(config: PretrainedConfig) -> dict[str, Any]:
    """What the rotary positions keep when they are stretched: their base. Raises InvalidSpec where there are none, or
    others for each kind of layer."""
    kept = getattr(config, "rope_parameters", None)
    if not isinstance(kept, dict) or "rope_theta" not in kept:
        text = f"cannot be used with {config.model_type}, which has no rotary positions of one kind: leave it out"
        raise InvalidSpec(text, field="rope_scaling")
    return {name: kept[name] for name in ("rope_theta", "partial_rotary_factor") if name in kept}
