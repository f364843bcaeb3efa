"""Floating-point operations that a training needs and its device can do: what model FLOPs utilisation is made of.

As in PaLM (arXiv 2204.02311, appendix B) only what the mathematics asks for is counted, not what is computed again
under checkpointing nor padding. A matrix of N weights takes 2N for each token forward, 2N backward for the gradient of
its input, and 2N for that of its weights where it is trained: 6N in a full training, 4N for a frozen base, 6N for an
adapter. The output matrix counts for the learned tokens alone, since no other logits are computed. Causal attention
takes 2t^2 for each of a sample's two products, layers and the width of all heads, half of it above the diagonal, and
twice that backward. What a reference or a reward model computes beside is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from shared.advice import cards
from trainer_worker.child.model import LINEAR

#: Backward of attention takes twice its forward; both products together are 2 t^2 for a causal one.
ATTENTION = 6
#: A matrix product that keeps a CPU busy: 2 x 1024^3 operations, some 10 ms.
SIZE, TRIES = 1024, 4
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Operations of a training step."""

    token: float
    #: On top, where a token is learned.
    learned: float
    #: For the square of a sample's length.
    square: float

    def of(self, batch: Mapping[str, Any]) -> float:
        squares = sum(length * length for length in batch["lengths"])
        return self.token * batch["num_tokens"] + self.learned * sum(batch["counts"]) + self.square * squares


def cost(model: Any) -> Cost:
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    outputs = {id(module) for module in head.modules()} if head is not None else set()
    token = learned = 0.0
    for name, module in model.named_modules():
        if isinstance(module, LINEAR) and "original_module" not in name:
            number = _operations(module) * (_share(config) if ".experts." in name else 1.0)
            learned, token = (learned + number, token) if id(module) in outputs else (learned, token + number)
    fused = (weight for name, weight in model.named_parameters() if weight.ndim == 3 and "experts" in name)
    token += sum((4 + 2 * weight.requires_grad) * weight.numel() for weight in fused) * _share(config)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    square = ATTENTION * config.num_hidden_layers * config.num_attention_heads * width
    return Cost(token=token, learned=learned, square=square)


def _operations(module: Any) -> float:
    # Not the weight's own shape: in 4 bits it is packed, under ZeRO-3 it is elsewhere. Conv1D says no sizes.
    is_linear = isinstance(module, torch.nn.Linear)
    number = module.in_features * module.out_features if is_linear else module.weight.numel()
    return float((4 + 2 * module.weight.requires_grad) * number)


def _share(config: Any) -> float:
    """Of the experts that a token goes through."""
    number = next((value for name in EXPERTS if (value := getattr(config, name, None))), None)
    chosen = getattr(config, "num_experts_per_tok", None)
    return float(chosen / number) if chosen and number else 1.0


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second: of a card, what its maker says for dense matrices in 16 bits; of a CPU, measured. 0 for a
    card that nobody has told us of."""
    if device.type != "cuda":
        return measured(dtype)
    found = cards.find(torch.cuda.get_device_name(device))
    return 1e12 * cards.KINDS[found].teraflops if found else 0.0


def measured(dtype: torch.dtype) -> float:
    matrix = torch.ones(SIZE, SIZE, dtype=dtype)
    seconds = []
    for _ in range(TRIES):
        began = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - began)
    return 2 * SIZE**3 / min(seconds)
