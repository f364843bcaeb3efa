"""After memory did not suffice: the next way to train the same with less. Pure; what happens with it is recovery.py's.

The batch of one step stays what it was: micro-batches get smaller by a divisor and as many more are accumulated, down
to single samples; then activations are computed again in the backward pass. The batch of a validation, whose loss is a
mean over all rows whatever the batch, is halved where validating failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIZE, STEPS, EVAL = "per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size"
#: Not a parameter: the trainer decides by the memory whether to recompute; this makes it.
RECOMPUTE = "gradient_checkpointing"
#: What a rank was at when it failed, as it says.
LOADING, VALIDATING = "loading the model", "validating"


def next_rung(spec: Mapping[str, Any], adjusted: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """What to adjust further; nothing: there is no way left. `known` is what was told of the attempt: what it was `at`,
    and whether it recomputed (`gradient_checkpointing`)."""
    if known.get("at") == LOADING:
        return {}
    given = {**spec, **adjusted}
    rung: dict[str, Any] = {}
    # Killed by the kernel it could not say what it was at.
    if known.get("at") != VALIDATING:
        rung |= _smaller(int(given.get(SIZE) or 1), int(given.get(STEPS) or 1))
    if known.get("at") == VALIDATING or (known.get("at") is None and given.get("eval_strategy", "no") != "no"):
        rung |= {EVAL: int(given[EVAL]) // 2} if int(given.get(EVAL) or 1) > 1 else {}
    if rung or known.get("at") == VALIDATING:
        return rung
    recomputes = given.get(RECOMPUTE) or known.get(RECOMPUTE)
    return {} if recomputes else {RECOMPUTE: True, "disable_gradient_checkpointing": False}


def _smaller(size: int, steps: int) -> dict[str, int]:
    """The largest batch of at most half the size that the accumulation makes up for exactly."""
    smaller = next((n for n in range(size // 2, 0, -1) if size % n == 0), None)
    return {} if smaller is None else {SIZE: smaller, STEPS: steps * size // smaller}


def in_words(rung: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """What the next attempt does otherwise."""
    said = []
    if SIZE in rung:
        old = f"{before.get(SIZE) or 1} x {before.get(STEPS) or 1}"
        said.append(f"micro-batches of {rung[SIZE]} x {rung[STEPS]} instead of {old}, the same batch per step")
    if EVAL in rung:
        said.append(f"validation by {rung[EVAL]} instead of {before.get(EVAL)}")
    if RECOMPUTE in rung:
        said.append("activations recomputed (gradient checkpointing)")
    return " and ".join(said)
