"""Attention over several samples that lie one after another in a single row, without padding and without a mask.

Each sample attends to itself only, through PyTorch's causal kernel on its own slice: the work is the sum of the
samples' squares, where a block-diagonal mask would cost the square of their sum (347 against 245 tokens/s for LoRA on
SmolLM2-135M with four samples of 220 tokens). Short samples of about one length are computed together on a CPU, where
the calls for each cost more than their work. Entered in transformers' table of attention functions under NAME by
`register`; it also has no entry in the table of masks, which is what keeps transformers from building one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
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
#: The shortest sample of a group that is computed together, as a share of the longest, to which all are filled up.
ALIKE = 2 / 3


def register() -> None:
    AttentionInterface.register(NAME, attend)


def suits(model_class: Any, config: PretrainedConfig) -> bool:
    """Whether every layer of the model passes what we need, and means plain causal attention."""
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    is_plain = layers <= PLAIN_LAYERS and not getattr(config, "attn_logit_softcapping", None)
    return is_plain and model_class._supports_sdpa and model_class._supports_attention_backend


# b: rows, always 1; h: heads; k: key-value heads; g: heads that share one; t: tokens of all samples; d: head size
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
    scale = scaling or query.shape[-1] ** -0.5
    if query.device.type == "cpu" and not dropout and max(segment_lengths) <= min(KEPT, sliding_window or KEPT):
        kept: torch.Tensor = _Kept.apply(query, key, value, scale, grouped(tuple(segment_lengths)))
        return kept, None  # b t h d
    pieces = zip(*(part.split(segment_lengths, dim=2) for part in (query, key, value)), strict=True)
    outputs = [_causal(q, k, v, scale, dropout, sliding_window) for q, k, v in pieces]
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return joined.transpose(1, 2).contiguous(), None  # b t h d


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, dropout: float, window: int | None
) -> torch.Tensor:
    length, groups = query.shape[2], query.shape[1] // key.shape[1]
    is_whole = window is None or length <= window
    if is_whole and query.device.type == "cpu" and length <= KEPT and not dropout:
        kept: torch.Tensor = _Kept.apply(query, key, value, scale, grouped((length,)))
        return kept.transpose(1, 2)
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


# s: samples of a group, l: tokens of the longest
@dataclass(frozen=True, kw_only=True)
class Group:
    """Samples that are computed together, each filled up at its end to the length of the longest."""

    length: int
    #: Where in the row each token lies, for filling that of the sample's first token: s l
    rows: torch.Tensor
    #: Which of these are tokens, and which filling.
    tokens: torch.Tensor
    filling: torch.Tensor
    #: Where in the row the tokens lie.
    places: torch.Tensor

    def taken(self, part: torch.Tensor, heads: int, *, blank: bool = False) -> torch.Tensor:
        """Of `part` (t, its heads, d) this group's samples, heads that share a key one below the other: s*k g*l d.
        Filling is nothing that anybody reads; `blank` makes it zero."""
        chosen = part.index_select(0, self.rows)
        if blank and len(self.filling):
            chosen.index_fill_(0, self.filling, 0.0)
        parted = chosen.view(-1, self.length, heads, part.shape[1] // heads, part.shape[2])
        return parted.permute(0, 2, 3, 1, 4).reshape(len(parted) * heads, -1, part.shape[2])

    def put(self, found: torch.Tensor, heads: int, whole: torch.Tensor) -> None:
        """The reverse of `taken`, into the places of `whole` (t, its heads, d)."""
        parted = found.view(-1, heads, whole.shape[1] // heads, self.length, whole.shape[2]).permute(0, 3, 1, 2, 4)
        tokens = parted.reshape(-1, *whole.shape[1:]).index_select(0, self.tokens)
        whole.index_copy_(0, self.places, tokens)


@lru_cache(maxsize=4)
def grouped(lengths: tuple[int, ...]) -> tuple[Group, ...]:
    """Samples of a row in groups of about one length. Remembered, because every layer asks for the same."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    members: list[list[int]] = []
    for index in order:
        if not members or lengths[index] < ALIKE * lengths[members[-1][0]]:
            members.append([])
        members[-1].append(index)
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    return tuple(_group([(starts[index], lengths[index]) for index in sorted(chosen)]) for chosen in members)


def _group(samples: Sequence[tuple[int, int]]) -> Group:
    longest = max(length for _, length in samples)
    starts, lengths = torch.tensor(samples).T[:, :, None]  # s 1
    place = torch.arange(longest)[None]  # 1 l
    is_token = (place < lengths).flatten()
    rows = (starts + torch.where(place < lengths, place, 0)).flatten()
    tokens, filling = (chosen.nonzero()[:, 0] for chosen in (is_token, ~is_token))
    return Group(length=longest, rows=rows, tokens=tokens, filling=filling, places=rows[tokens])


class _Kept(torch.autograd.Function):
    """Causal attention of samples each of which sees itself only; their probabilities are kept for the way back."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, groups: tuple[Group, ...]
    ) -> torch.Tensor:
        parts, heads = [part[0].transpose(0, 1) for part in (query, key, value)], key.shape[1]  # t h d, t k d
        whole, saved = torch.empty_like(parts[0], memory_format=torch.contiguous_format), []
        with torch.autocast("cpu", enabled=False):
            for group in groups:
                stacked, keys, values = (group.taken(part, heads) for part in parts)  # s*k g*l d, s*k l d
                above = _above(group.length, stacked.shape[1] // group.length, query.dtype)  # g*l l
                scores = torch.baddbmm(above.expand(len(keys), -1, -1), stacked, keys.transpose(1, 2), alpha=scale)
                probabilities = scores.softmax(dim=2)  # s*k g*l l
                group.put(torch.bmm(probabilities, values), heads, whole)
                saved += [stacked, keys, values, probabilities]
        ctx.save_for_backward(*saved)
        ctx.scale, ctx.groups = scale, groups
        return whole[None]  # b t h d

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved, given = ctx.saved_tensors, outer[0][0]  # t h d
        heads = saved[1].shape[0] // (len(ctx.groups[0].rows) // ctx.groups[0].length)
        of_query = torch.empty_like(given, memory_format=torch.contiguous_format)
        of_key, of_value = (given.new_empty(len(given), heads, given.shape[2]) for _ in range(2))
        for group, place in zip(ctx.groups, range(0, len(saved), 4), strict=True):
            stacked, keys, values, probabilities = saved[place : place + 4]
            gradient = group.taken(given, heads, blank=True)  # s*k g*l d
            group.put(torch.bmm(probabilities.transpose(1, 2), gradient), heads, of_value)
            inner = torch.bmm(gradient, values.transpose(1, 2))  # s*k g*l l
            # Of the softmax: p (dp - sum(p dp)), times the scale of what went in.
            scores = torch._softmax_backward_data(inner, probabilities, 2, inner.dtype).mul_(ctx.scale)
            group.put(torch.bmm(scores, keys), heads, of_query)
            group.put(torch.bmm(scores.transpose(1, 2), stacked), heads, of_key)
        return *(part.transpose(0, 1)[None] for part in (of_query, of_key, of_value)), None, None


@lru_cache(maxsize=16)
def _above(length: int, groups: int, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the scores: minus infinity where a token would see one that comes after it."""
    return torch.full((length, length), float("-inf"), dtype=dtype).triu(1).repeat(groups, 1)
