"""Optimizers and schedules by name: what each may be told besides the learning rate, and why some are refused.

What an option means is the library's to say (transformers, torch, bitsandbytes); here it is only checked that it is
one of the schedule's or the optimizer's own, so that a wrong name does not fail a job hours later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.fields import Message, shown
from shared.nearest import did_you_mean
from shared.tongues import Text

NUMBER = (int, float)
#: Of each schedule its options and their types.
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "linear": {},
    "cosine": {"num_cycles": NUMBER},
    "cosine_with_restarts": {"num_cycles": int},
    "polynomial": {"lr_end": NUMBER, "power": NUMBER},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {"timescale": int},
    "cosine_with_min_lr": {"min_lr": NUMBER, "min_lr_rate": NUMBER, "num_cycles": NUMBER},
    "cosine_warmup_with_min_lr": {
        "min_lr": NUMBER, "min_lr_rate": NUMBER, "num_cycles": NUMBER, "warmup_lr_rate": NUMBER,
    },
    "warmup_stable_decay": {
        "num_stable_steps": int, "num_decay_steps": int, "warmup_type": str, "decay_type": str, "min_lr_ratio": NUMBER,
        "num_cycles": NUMBER,
    },
    "reduce_lr_on_plateau": {
        "mode": str, "factor": NUMBER, "patience": int, "threshold": NUMBER, "threshold_mode": str, "cooldown": int,
        "min_lr": NUMBER, "eps": NUMBER,
    },
}  # fmt: skip
#: Choices of the options that are names.
NAMED = {
    "warmup_type": ("linear", "cosine", "1-sqrt"),
    "decay_type": ("linear", "cosine", "1-sqrt"),
    "mode": ("min", "max"),
    "threshold_mode": ("rel", "abs"),
}
#: Schedules that end at a rate above zero, which must be said one way.
WITH_FLOOR = ("cosine_with_min_lr", "cosine_warmup_with_min_lr")

_ADEMAMIX = {"beta3": float, "alpha": float, "t_alpha": int, "t_beta3": int}
#: Of each optimizer the names of its options in `optim_args`; a switch is written true or false.
OPTIMIZERS: Mapping[str, Mapping[str, type]] = {
    "adamw_torch": {},
    "adamw_torch_fused": {},
    "adafactor": {},
    "sgd": {"momentum": float, "dampening": float, "nesterov": bool},
    "adagrad": {"lr_decay": float, "eps": float},
    "rmsprop": {"momentum": float, "alpha": float, "eps": float, "centered": bool},
    "rmsprop_bnb": {}, "rmsprop_bnb_8bit": {}, "rmsprop_bnb_32bit": {},
    "adamw_8bit": {}, "adamw_bnb_8bit": {}, "paged_adamw_8bit": {}, "paged_adamw_32bit": {},
    "lion_8bit": {}, "lion_32bit": {}, "paged_lion_8bit": {}, "paged_lion_32bit": {},
    "ademamix": _ADEMAMIX, "ademamix_8bit": _ADEMAMIX,
    "paged_ademamix_8bit": _ADEMAMIX, "paged_ademamix_32bit": _ADEMAMIX,
}  # fmt: skip
_GALORE = "the only release of its package galore-torch is of March 2024: use adamw_8bit, adafactor, or lora"
_APOLLO = "its package apollo-torch has had no release since January 2025: use adamw_8bit, adafactor, or lora"
_LOMO = "it changes weights within the backward pass, so nothing can be accumulated or clipped: use paged_adamw_8bit"
_FREE = (
    "its weights must be switched to their averages for every validation and checkpoint: use adamw_torch with cosine"
)
#: Optimizers of transformers that are refused, and what to use.
REFUSED: Mapping[str, str] = {
    "adamw_torch_xla": "it is for TPUs: use adamw_torch",
    "adamw_torch_npu_fused": "it is for Ascend NPUs: use adamw_torch_fused",
    "adamw_anyprecision": "its package torchdistx is archived: use adamw_torch with pure_bf16",
    "adamw_torch_4bit": "it needs torchao, which is not part of the trainer: use adamw_8bit",
    "adamw_torch_8bit": "it needs torchao, which is not part of the trainer: use adamw_8bit",
    "galore_adamw": _GALORE, "galore_adamw_8bit": _GALORE, "galore_adafactor": _GALORE,
    "galore_adamw_layerwise": _GALORE, "galore_adamw_8bit_layerwise": _GALORE, "galore_adafactor_layerwise": _GALORE,
    "apollo_adamw": _APOLLO, "apollo_adamw_layerwise": _APOLLO,
    "lomo": _LOMO, "adalomo": _LOMO,
    "grokadamw": "its package grokadamw has not left version 0: use adamw_torch",
    "schedule_free_radam": _FREE, "schedule_free_adamw": _FREE, "schedule_free_sgd": _FREE,
    "stable_adamw": "it needs torch-optimi, which is not part of the trainer: use adamw_torch with max_grad_norm",
}  # fmt: skip


def optimizer_complaint(value: str) -> Message | None:
    if value in OPTIMIZERS:
        return None
    if value in REFUSED:
        return Message("{value!r} is not supported: {reason}", "unsupported", value=value, reason=Text(REFUSED[value]))
    near = did_you_mean(value, list(OPTIMIZERS))
    return Message(
        "is {value}: must be one of {allowed}{near}",
        "invalid_choice",
        value=shown(value),
        allowed=", ".join(OPTIMIZERS),
        near=near,
    )


def schedule_options_complaint(schedule: str, given: Mapping[str, Any]) -> str | None:
    known = SCHEDULES[schedule]
    for name, value in given.items():
        if name not in known:
            listed = f"its options are {', '.join(known)}" if known else "it has none"
            return f"names {shown(name)}, which lr_scheduler_type {schedule!r} does not know: {listed}"
        if isinstance(value, bool) or not isinstance(value, known[name]):
            kind = {int: "a whole number", str: "a name"}.get(known[name], "a number")
            return f"has {name} {shown(value)}: must be {kind}"
        if name in NAMED and value not in NAMED[name]:
            return f"has {name} {shown(value)}: must be one of {', '.join(NAMED[name])}"
    if schedule in WITH_FLOOR and ("min_lr" in given) == ("min_lr_rate" in given):
        return f"must have either min_lr (a rate) or min_lr_rate (a share of the rate) for {schedule!r}"
    return None


def optimizer_options(text: str) -> dict[str, str]:
    """`momentum=0.9, nesterov=true` by name. Raises ValueError for another form."""
    pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
    return {name.strip(): value.strip() for name, value in pairs}


def optimizer_options_complaint(optimizer: str, text: str) -> str | None:
    try:
        given = optimizer_options(text)
    except ValueError:
        return f"is {shown(text)}: must be name=value with commas between"
    known = OPTIMIZERS[optimizer]
    for name, value in given.items():
        if name not in known:
            listed = f"its options are {', '.join(known)}" if known else "it has none; its parameters are fields here"
            return f"names {shown(name)}, which optim {optimizer!r} does not know: {listed}"
        if known[name] is bool:
            if value not in ("true", "false"):
                return f"has {name} {shown(value)}: must be true or false"
            continue
        try:
            known[name](value)
        except ValueError:
            return f"has {name} {shown(value)}: must be {'a whole number' if known[name] is int else 'a number'}"
    return None
