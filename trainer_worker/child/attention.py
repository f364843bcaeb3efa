"""Attention over several samples that lie one after another in a single row, without padding and without a mask.

Each sample attends to itself only, through PyTorch's causal kernel on its own slice: the work is the sum of the
samples' squares, where a block-diagonal mask would cost the square of their sum (347 against 245 tokens/s for LoRA on
SmolLM2-135M with four samples of 220 tokens). Entered in transformers' table of attention functions under NAME by
`register`; it also has no entry in the table of masks, which is what keeps transformers from building one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, PretrainedConfig

NAME = "tunesmith_segments"
#: Layers whose attention is an ordinary causal one; state-space and chunked layers would read across samples.
PLAIN_LAYERS = frozenset({"full_attention", "sliding_attention", "attention"})


def register() -> None:
    AttentionInterface.register(NAME, attend)


def suits(model_class: Any, config: PretrainedConfig) -> bool:
    """Whether every layer of the model passes what we need, and means plain causal attention."""
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    is_plain = layers <= PLAIN_LAYERS and not getattr(config, "attn_logit_softcapping", None)
    return is_plain and model_class._supports_sdpa and model_class._supports_attention_backend


# b: rows, always 1; h: heads; k: key-value heads; t: tokens of all samples; d: head size
def attend(
    module: torch.nn.Module,
    query: torch.Tensor,  # b h t d
    key: torch.Tensor,  # b k t d
    value: torch.Tensor,  # b k t d
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segment_lengths: list[int] | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    if segment_lengths is None:
        raise ValueError(f"{type(module).__name__} does not pass on where the samples lie: set flash_attn to sdpa")
    groups = query.shape[1] // key.shape[1]
    pieces = zip(*(part.split(segment_lengths, dim=2) for part in (query, key, value)), strict=True)
    outputs = [
        _causal(q, _repeated(k, groups), _repeated(v, groups), scaling, dropout, sliding_window) for q, k, v in pieces
    ]
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return joined.transpose(1, 2).contiguous(), None  # b t h d


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, dropout: float, window: int | None
) -> torch.Tensor:
    length = query.shape[2]
    if window is None or length <= window:
        return functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, scale=scale, is_causal=True
        )
    ones = torch.ones(length, length, dtype=torch.bool, device=query.device)
    band = ones.tril() & ~ones.tril(-window)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=band, dropout_p=dropout, scale=scale)


def _repeated(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """Each key-value head once per query head that shares it: b k t d -> b h t d."""
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)
