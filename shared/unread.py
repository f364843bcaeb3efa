"""Fields of a training that LF's export takes and does not read: such a file posts as it is, and is told.

What would change the exported model or its prompt there (a base in 4 bits, new tokens, scaled positions) stays refused.
"""

from __future__ import annotations

from typing import Any

from shared.param import Param

#: Groups of a training's spec: LF's arguments of data, method, loss and generation.
GROUPS = frozenset({"data", "tuning", "lora", "freeze", "loss", "preference", "plugged", "drawing"})
#: Of other groups: how a training computes.
COMPUTING = frozenset({
    "flash_attn", "enable_liger_kernel", "disable_gradient_checkpointing", "use_reentrant_gc", "upcast_layernorm",
})  # fmt: skip
#: Of those groups what a prompt is made with: an export takes it from the training.
PROMPT = frozenset({"default_system", "tool_format", "enable_thinking", "preserve_thinking", "split_special_tokens"})


def by_export(param: Param, value: Any) -> bool:
    """Whether an export ignores this field of a training. A reward model (stage rm) is not exported."""
    if param.wire == "stage":
        return bool(value != "rm")
    return param.wire in COMPUTING or (param.path[0] in GROUPS and param.wire not in PROMPT)
