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
#: Longest sample of which a CPU keeps the probabilities, where PyTorch's kernel computes them again. 9 heads of 64 take
#: 2.3 instead of 6.0 ms for 128 tokens forward and back, 8.3 instead of 12.7 for 256; beyond, the memory is worth more.
KEPT = 256


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
    query, key, value = _as_computed(query, key, value)
    pieces = zip(*(part.split(segment_lengths, dim=2) for part in (query, key, value)), strict=True)
    outputs = [_causal(q, k, v, scaling or query.shape[-1] ** -0.5, dropout, sliding_window) for q, k, v in pieces]
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return joined.transpose(1, 2).contiguous(), None  # b t h d


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, dropout: float, window: int | None
) -> torch.Tensor:
    length, groups = query.shape[2], query.shape[1] // key.shape[1]
    is_whole = window is None or length <= window
    if is_whole and query.device.type == "cpu" and length <= KEPT and not dropout:
        kept: torch.Tensor = _Kept.apply(query, key, value, scale)
        return kept
    key, value = _repeated(key, groups), _repeated(value, groups)
    if is_whole or window is None:
        return functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, scale=scale, is_causal=True
        )
    ones = torch.ones(length, length, dtype=torch.bool, device=query.device)
    band = ones.tril() & ~ones.tril(-window)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=band, dropout_p=dropout, scale=scale)


def _repeated(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """Each key-value head once per query head that shares it: b k t d -> b h t d."""
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)


def _as_computed(*parts: torch.Tensor) -> list[torch.Tensor]:
    """In one format, as autocast would for a kernel of PyTorch's."""
    kind = parts[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else parts[2].dtype
    return [part.to(dtype) for part in parts]


class _Kept(torch.autograd.Function):
    """Causal attention of one sample. The heads that share a key lie one below the other: nothing is repeated."""

    # k: key-value heads, n: g * t, the tokens of all heads of a group
    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        shape, (heads, length, size) = query.shape, key.shape[1:]
        with torch.autocast("cpu", enabled=False):
            stacked = query.reshape(heads, -1, size)  # k n d
            keys, values = key[0], value[0]  # k t d
            above = _above(length, stacked.shape[1] // length, query.dtype)  # n t
            scores = torch.baddbmm(above.expand(heads, -1, -1), stacked, keys.transpose(1, 2), alpha=scale)
            probabilities = scores.softmax(dim=2)  # k n t
            ctx.save_for_backward(stacked, keys, values, probabilities)
            ctx.scale, ctx.shape = scale, shape
            return torch.bmm(probabilities, values).view(shape)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        stacked, keys, values, probabilities = ctx.saved_tensors
        gradient = outer[0].reshape(stacked.shape)
        inner = torch.bmm(gradient, values.transpose(1, 2))  # k n t
        # Of the softmax: p (dp - sum(p dp)), times the scale of what went in.
        scores = torch._softmax_backward_data(inner, probabilities, 2, inner.dtype).mul_(ctx.scale)
        of_query = torch.bmm(scores, keys).view(ctx.shape)
        of_key = torch.bmm(scores.transpose(1, 2), stacked)[None]
        return of_query, of_key, torch.bmm(probabilities.transpose(1, 2), gradient)[None], None


def _above(length: int, groups: int, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the scores: minus infinity where a token would see one that comes after it."""
    return torch.full((length, length), float("-inf"), dtype=dtype).triu(1).repeat(groups, 1)
