"""From a spec to DeepSpeed's own configuration, with every number written out. Pure.

"auto" is not left to the trainer: under ZeRO-3 the model is built before the process group exists, and DeepSpeed then
needs numbers. What depends on the model's width stays "auto", it is filled when the model is known. Values of ours
that must agree with the trainer's (batch, clipping, precision) replace what the client wrote; see `replaced`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from shared import deepspeed as presets
from shared.spec import TrainSpec

#: The device of a machine without GPUs; shared/devices.py is for workers, not for children.
CPU = "cpu"
#: Filled by transformers from the model's hidden size.
BY_WIDTH = frozenset({"reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"})
#: What "auto" means where neither spec nor model says anything.
FALLBACKS: Mapping[str, Any] = {"overlap_comm": False, "contiguous_gradients": True}
#: Parts of a client's configuration that say again what the spec says.
SPECIFIED = ("optimizer", "scheduler")


def is_wanted(spec: TrainSpec) -> bool:
    return spec.distributed.deepspeed is not None or spec.distributed.zero_stage is not None


def stage(spec: TrainSpec) -> int:
    """ZeRO stage; 0 also without DeepSpeed."""
    given = _given(spec) if is_wanted(spec) else {}
    return int(given.get("zero_optimization", {}).get("stage", 0))


def config(spec: TrainSpec, *, num_processes: int, device: str, bf16: bool) -> dict[str, Any]:
    """`device` is "cpu" or "cuda"; `bf16` whether the engine shall hold the weights in bfloat16."""
    made = _given(spec)
    for name in SPECIFIED:
        made.pop(name, None)
    made |= specified(spec, num_processes, bf16)
    made["zero_optimization"] = _zero(made.get("zero_optimization", {}), device)
    # torch's own AdamW steps on offloaded state too; DeepSpeed's would have to be compiled first.
    made.setdefault("zero_force_ds_cpu_optimizer", False)
    made.setdefault("zero_allow_untested_optimizer", True)
    return made


def reading(spec: TrainSpec, *, num_processes: int, device: str) -> dict[str, Any]:
    """For a model that is read only: its weights shared as the trained one's, nothing else; buffers of DeepSpeed's
    own sizes, since nobody fills in what follows from the width."""
    made = config(spec, num_processes=num_processes, device=device, bf16=False)
    zero = {key: value for key, value in made["zero_optimization"].items() if key not in BY_WIDTH}
    zero.pop("offload_optimizer", None)
    return made | {"zero_optimization": zero}


def specified(spec: TrainSpec, num_processes: int, bf16: bool) -> dict[str, Any]:
    train = spec.train
    return {
        "train_micro_batch_size_per_gpu": train.per_device_train_batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "train_batch_size": train.per_device_train_batch_size * train.gradient_accumulation_steps * num_processes,
        "gradient_clipping": train.max_grad_norm,
        "bf16": {"enabled": bf16},
        "fp16": {"enabled": train.fp16},
    }


def replaced(spec: TrainSpec) -> list[str]:
    """Parts of the client's configuration that count for nothing because the spec says them."""
    given = spec.distributed.deepspeed or {}
    own = specified(spec, 1, False)
    return sorted(
        name
        for name, value in given.items()
        if name in SPECIFIED or (name in own and isinstance(value, int | float) and value != own[name])
    )


def _given(spec: TrainSpec) -> dict[str, Any]:
    if spec.distributed.deepspeed is not None:
        return deepcopy(spec.distributed.deepspeed)
    return presets.for_stage(spec.distributed.zero_stage or 0, spec.distributed.zero_offload)


def _zero(given: Mapping[str, Any], device: str) -> dict[str, Any]:
    zero = {key: _settled(key, value) for key, value in given.items()}
    if device == CPU:
        # No streams to overlap on, and no accelerator to pin memory for.
        zero["overlap_comm"] = False
        for name in ("offload_optimizer", "offload_param"):
            if name in zero:
                zero[name] = {**zero[name], "pin_memory": False}
    return zero


def _settled(key: str, value: Any) -> Any:
    return FALLBACKS[key] if value == "auto" and key in FALLBACKS and key not in BY_WIDTH else value
