"""DeepSpeed configurations that we ship, and the check of one that a client sends.

Presets are named as in LF's examples (`ds_z3_config.json`), and a path of LF is taken by its base name. An inline
object may hold only what is listed below: DeepSpeed has keys that name files to read and write, and a client never
chooses those. What it does not do: fill in the "auto" values, which the trainer does when it knows the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from marshmallow import fields

from shared.fields import refuse, shown
from shared.nearest import did_you_mean
from shared.tongues import Text

#: Top-level keys of an inline configuration.
ALLOWED = frozenset({
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
    "zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "fp16", "bf16", "amp",
    "steps_per_print", "wall_clock_breakdown", "prescale_gradients", "gradient_predivide_factor",
    "communication_data_type", "data_types", "activation_checkpointing", "optimizer", "scheduler",
    "dump_state", "sparse_gradients",
})  # fmt: skip
#: Keys of zero_optimization; DeepSpeed itself refuses others, but only when the training starts. Those that name a
#: file are left out.
ZERO_KEYS = frozenset({
    "stage", "allgather_bucket_size", "allgather_partitions", "contiguous_gradients", "cpu_offload",
    "cpu_offload_param", "cpu_offload_use_pin_memory", "elastic_checkpoint", "gather_16bit_weights_on_model_save",
    "ignore_unused_parameters", "legacy_stage1", "load_from_fp32_weights", "max_live_parameters", "max_reuse_distance",
    "memory_efficient_linear", "model_persistence_threshold", "offload_optimizer", "offload_param", "overlap_comm",
    "param_persistence_threshold", "prefetch_bucket_size", "reduce_bucket_size", "reduce_scatter",
    "round_robin_gradients", "sub_group_size", "use_multi_rank_bucket_allreduce", "zero_hpz_partition_size",
    "zero_quantized_gradients", "zero_quantized_nontrainable_weights", "zero_quantized_weights",
    "stage3_gather_16bit_weights_on_model_save", "stage3_gather_fp16_weights_on_model_save",
    "stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_model_persistence_threshold",
    "stage3_module_granularity_threshold", "stage3_param_persistence_threshold", "stage3_prefetch_bucket_size",
})  # fmt: skip
#: Keys, and LF's presets, that are known and not taken: why, and what to use.
REFUSED_KEYS: Mapping[str, str] = {
    "tensor_parallel": "every process reads samples of its own, not those of a group; use zero_optimization stage 3",
    "monitor_config": "metrics are events of the job; leave it out",
    "comms_config": "it only writes logs; leave it out",
}
REFUSED_PRESETS: Mapping[str, str] = {
    "ds_z2_autotp_config.json": "it needs tensor parallelism, which a training has not; use ds_z3_config.json",
    "ds_z3_fp8_config.json": "it belongs to fp8; use ds_z3_offload_config.json with bf16",
}
#: Where optimizer state and weights may be offloaded to; "nvme" would need a path.
OFFLOAD_DEVICES = ("none", "cpu")
#: Keys of zero_optimization by what `zero_offload` says.
OFFLOADED: Mapping[str, tuple[str, ...]] = {
    "none": (), "optimizer": ("offload_optimizer",), "optimizer+params": ("offload_optimizer", "offload_param"),
}  # fmt: skip
MAX_DEPTH = 8


def names() -> list[str]:
    """Presets, by file name."""
    return sorted(entry.name for entry in resources.files(__name__).iterdir() if entry.name.endswith(".json"))


def preset(name: str) -> dict[str, Any]:
    """The preset of this file name. Raises KeyError."""
    if name not in names():
        raise KeyError(name)
    made: dict[str, Any] = json.loads(resources.files(__name__).joinpath(name).read_text())
    return made


def for_stage(zero_stage: int, offload: str = "none") -> dict[str, Any]:
    """The preset that `zero_stage` stands for, with what `zero_offload` moves to the host."""
    made = preset(f"ds_z{zero_stage}_config.json")
    for name in OFFLOADED[offload]:
        made["zero_optimization"][name] = {"device": "cpu", "pin_memory": True}
    return made


class DeepSpeedConfig(fields.Dict):
    """A preset's name (a path counts by its base name) or an object; becomes the object."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if isinstance(value, str):
            return _named(value)
        if not isinstance(value, dict):
            raise refuse("is {value}: must be a preset's name or an object", "invalid_type", value=shown(value))
        _check(value)
        return value


def _named(value: str) -> dict[str, Any]:
    base = value.replace("\\", "/").rsplit("/", 1)[-1]
    name = base if base.endswith(".json") else f"{base}.json"
    if name in REFUSED_PRESETS:
        reason = Text(REFUSED_PRESETS[name])
        raise refuse("is {value}, which is not supported: {reason}", "unsupported", value=shown(value), reason=reason)
    if name not in names():
        near = did_you_mean(name, names())
        raise refuse(
            "is {value}: must be an object, or one of {allowed}{near}",
            "invalid_choice",
            value=shown(value),
            allowed=", ".join(names()),
            near=near,
        )
    return preset(name)


def _check(config: dict[str, Any]) -> None:
    for key in config:
        if key in REFUSED_KEYS:
            reason = Text(REFUSED_KEYS[key])
            raise refuse("has the key {key!r}, which is not supported: {reason}", "unsupported", key=key, reason=reason)
        if key not in ALLOWED and not str(key).startswith("_comment"):
            near = did_you_mean(str(key), ALLOWED)
            raise refuse("has the key {key}: not allowed{near}", "unknown_field", key=shown(key), near=near)
    zero = config.get("zero_optimization", {})
    stage = zero.get("stage", 0) if isinstance(zero, dict) else None
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        raise refuse("needs zero_optimization with a stage of 0, 1, 2 or 3")
    for key, value in zero.items():
        _check_zero(key, value)
    _refuse_paths(config, "", MAX_DEPTH)


def _check_zero(key: str, value: Any) -> None:
    if key not in ZERO_KEYS and not is_place(key):
        near = did_you_mean(key, ZERO_KEYS)
        raise refuse("has the key zero_optimization.{key}: not known{near}", "unknown_field", key=key[:80], near=near)
    if isinstance(value, str) and value != "auto":
        place = f"zero_optimization.{key}"
        raise refuse("has {value} at {place}: must be a number, true, false or auto", value=shown(value), place=place)


def is_place(key: str) -> bool:
    """Whether a key's value would say where to read or write on the server."""
    return "path" in key or "dir" in key.split("_") or "file" in key


def _refuse_paths(value: Any, where: str, levels: int) -> None:
    if levels == 0:
        raise refuse("is nested deeper than {most} levels", most=MAX_DEPTH)
    if isinstance(value, list):
        for item in value:
            _refuse_paths(item, where, levels - 1)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        place = f"{where}.{key}" if where else str(key)
        if is_place(str(key)):
            raise refuse("names a place on the server at {place}: not allowed", place=place)
        if str(key) == "device" and inner not in OFFLOAD_DEVICES:
            raise refuse(
                "offloads to {inner} at {place}: must be one of {allowed}",
                inner=shown(inner),
                place=place,
                allowed=", ".join(OFFLOAD_DEVICES),
            )
        _refuse_paths(inner, place, levels - 1)
