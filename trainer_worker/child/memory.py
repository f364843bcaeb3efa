"""Whether activations fit in memory as they are, or must be computed again in the backward pass (checkpointing).

The rule: with `disable_gradient_checkpointing` they are never recomputed; without it, only when the estimate that plans
are made with (shared/advice/memory.py) is for the largest batch of this dataset more than the memory that is free once
the weights are there, less a reserve. Recomputing costs a third of the speed.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import PretrainedConfig

from shared import hostmemory
from shared.advice import footprint, shapes
from shared.advice.memory import estimate
from shared.spec import TrainSpec
from trainer_worker.child.precision import AMPLE

#: Share of the free memory that may be used, by kind of device: others use a host's memory too.
BUDGET = {"cpu": 0.6, "cuda": 0.9}
#: What the process takes on a CPU for each estimated byte: SmolLM2-135M with LoRA took 1.5 GB for an estimate of 1.0
#: (1,024 tokens in bfloat16), the rest being copies of the matrix library.
HOST_FACTOR = 1.5


def needs_checkpointing(
    spec: TrainSpec, config: PretrainedConfig, num_tokens: int, num_learned: int, num_devices: int,
    device: torch.device, *, has_bf16: bool = True,
) -> bool:  # fmt: skip
    """`num_tokens` and `num_learned` are those of the largest batch of one process; `has_bf16` is whether a base that
    is stored so is computed with in bfloat16."""
    try:
        shape = shapes.read(config.to_dict())
    except shapes.UnreadableShape:
        return True  # what cannot be estimated is computed the way that takes least
    needed = needed_bytes(spec, shape, num_tokens, num_learned, num_devices, has_bf16=has_bf16)
    factor = HOST_FACTOR if device.type == "cpu" else 1.0
    return factor * needed > BUDGET.get(device.type, BUDGET["cuda"]) * free_bytes(device)


def needed_bytes(
    spec: TrainSpec, shape: shapes.Shape, num_tokens: int, num_learned: int, num_devices: int, *, has_bf16: bool = True
) -> float:
    """All that comes beside the weights when nothing is computed again."""
    made = footprint.training(spec, shape, num_devices=num_devices, has_bf16=has_bf16)
    rows = spec.train.per_device_train_batch_size
    length, learned = -(-num_tokens // rows), num_learned / max(num_tokens, 1)
    parts = estimate(replace(made, rows=rows, length=length, learned=learned, checkpointing=False))
    return parts.activations + parts.logits + parts.gradients + parts.optimizer


def is_ample(config: PretrainedConfig, num_processes: int) -> bool:
    """Whether the base in float32 takes no more than a share of the machine; from the machine's whole memory, so that a
    training that goes on computes as it did before."""
    try:
        shape = shapes.read(config.to_dict())
    except shapes.UnreadableShape:
        return False
    return 4 * shape.num_weights * num_processes <= AMPLE * hostmemory.total_bytes()


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return hostmemory.free_bytes()
