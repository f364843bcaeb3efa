"""Whether activations fit in memory as they are, or must be computed again in the backward pass (checkpointing).

The rule: with `disable_gradient_checkpointing` they are never recomputed; without it, only when the estimate for the
largest batch of this dataset is more than BUDGET of the memory that is free once the weights are there. Recomputing
costs a third of the speed. The estimate is the working set of a SwiGLU block with grouped-query attention, kept for
every layer, and the logits of the learned tokens; see shared/advice for the estimate that users are shown.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PretrainedConfig

#: Share of the free memory that activations may take: the estimate is rough, and others use the machine too.
BUDGET = 0.6
#: Tensors that RMSNorm, rotary embedding and LoRA keep besides the matrices' own inputs, in units of their size.
OVERHEAD = 2.0


def needs_checkpointing(
    config: PretrainedConfig, num_tokens: int, num_learned: int, dtype: torch.dtype, device: torch.device
) -> bool:
    """`num_tokens` and `num_learned` are those of the largest batch of one process."""
    return activation_bytes(config, num_tokens, num_learned, dtype.itemsize) > BUDGET * free_bytes(device)


def activation_bytes(config: PretrainedConfig, num_tokens: int, num_learned: int, element_bytes: int) -> int:
    """Measured on SmolLM2-135M with LoRA: 1,024 tokens 1.5 GB in bfloat16 and 2.9 in float32 (estimate 1.8 and 3.6)."""
    width = config.hidden_size
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or width // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    inner = getattr(config, "intermediate_size", None) or 4 * width
    per_token = 12 * width + 3 * heads * head_size + key_heads * head_size + 3 * inner
    layers = element_bytes * OVERHEAD * num_tokens * config.num_hidden_layers * per_token
    # The logits, the gradient kept in their place, and a slice of both in float32.
    logits = 3 * element_bytes * num_learned * config.vocab_size
    return int(layers + logits)


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_host_bytes(), _limit_bytes())


def _host_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo tells no MemAvailable")


def _limit_bytes() -> int:
    """What the container may still take; without a limit, more than any machine has."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text()
    except OSError:
        limit, used = "max", "0"
    return 2**62 if limit == "max" else int(limit) - int(used)
