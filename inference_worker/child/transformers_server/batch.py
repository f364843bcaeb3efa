"""Answers that are computed together, one token each per step: their cache, padded on the left to one length.

Only for models whose cache is keys and values of every position; others are computed by whole.py. Answers join and
leave between steps: a cache is padded and put beside another, or rows of it are taken away.
Shapes: B answers, L positions in the cache, T tokens of one step, V vocabulary.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

log = logging.getLogger(__name__)

#: Layers whose positions can be padded, joined and taken away. A sliding window is kept whole and masked.
JOINABLE = (DynamicLayer, DynamicSlidingWindowLayer)


#: Part of the logits' length by which a padded row may differ from itself alone: rounding of bfloat16 stays below.
MAX_DIFFERENCE = 0.1


def is_joinable(model: Any, device: torch.device) -> bool:
    """Whether answers of this model can be computed together: its cache is keys and values alone, and a row that is
    padded gets the logits that it gets alone, which is tried out."""
    if not _has_plain_cache(model):
        return False
    difference = trial(model, device)
    if difference > MAX_DIFFERENCE:
        log.warning("Padded rows differ by %.2f from those alone: requests are answered one by one", difference)
    return difference <= MAX_DIFFERENCE


def _has_plain_cache(model: Any) -> bool:
    if model.config.is_encoder_decoder or not model._supports_default_dynamic_cache():
        return False
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return False
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    return all(type(layer) in JOINABLE for layer in layers)


@torch.inference_mode()
def trial(model: Any, device: torch.device) -> float:
    """How far the logits of a short row beside a long one are from those of the short one alone, relative to these."""
    long, short = Batch(model, device), Batch(model, device)
    long.forward(torch.tensor([[5, 6, 7, 8, 9, 10]], device=device))
    short.forward(torch.tensor([[11, 12]], device=device))
    long.join(short)
    beside = long.forward(torch.tensor([[13], [14]], device=device))[1]
    alone = Batch(model, device).forward(torch.tensor([[11, 12, 14]], device=device))[0]
    return float((beside - alone).norm() / alone.norm())


class Batch:
    """B rows. `mask` says which of the cached positions are no padding."""

    def __init__(self, model: Any, device: torch.device):
        self._model = model
        self._cache = DynamicCache()
        self._takes = inspect.signature(model.forward).parameters
        self.mask = torch.ones(1, 0, dtype=torch.long, device=device)  # [B, L]

    @property
    def num_rows(self) -> int:
        return self.mask.shape[0]

    @property
    def length(self) -> int:
        return self.mask.shape[1]

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """The logits after the last token of each row, [B, V]. token_ids: [B, T]"""
        self.mask = pad(self.mask, (0, token_ids.shape[1]), value=1)
        positions = (self.mask.cumsum(dim=1) - 1)[:, -token_ids.shape[1] :]
        # Some models know no positions but those of the mask, and compute the logits of every token.
        optional = {"position_ids": positions, "logits_to_keep": 1}
        output = self._model(
            input_ids=token_ids,
            attention_mask=self.mask,
            past_key_values=self._cache,
            use_cache=True,
            **{name: value for name, value in optional.items() if name in self._takes},
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def repeat(self, times: int) -> None:
        """Each row becomes `times` rows."""
        if times > 1:
            self._cache.batch_repeat_interleave(times)
            self.mask = self.mask.repeat_interleave(times, dim=0)

    def keep(self, rows: list[int]) -> None:
        """Only these rows, in this order; positions that none of them needs go, too."""
        indices = torch.tensor(rows, device=self.mask.device)
        self._cache.batch_select_indices(indices)
        self.mask = self.mask[indices]
        num_unused = int(self.mask.argmax(dim=1).min())
        if num_unused:
            self.mask = self.mask[:, num_unused:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, num_unused:], layer.values[:, :, num_unused:]

    def join(self, other: Batch) -> None:
        """The rows of `other` come after ours; `other` is used up."""
        length = max(self.length, other.length)
        for ours, theirs in zip(self._cache.layers, other._cache.layers, strict=True):
            ours.keys = torch.cat([_padded(ours.keys, length), _padded(theirs.keys, length)])
            ours.values = torch.cat([_padded(ours.values, length), _padded(theirs.values, length)])
        masks = [pad(mask, (length - mask.shape[1], 0)) for mask in (self.mask, other.mask)]
        self.mask = torch.cat(masks)

    def size_bytes(self) -> int:
        tensors = [tensor for layer in self._cache.layers for tensor in (layer.keys, layer.values)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _padded(states: torch.Tensor, length: int) -> torch.Tensor:
    """Keys or values, [B, heads, L, width], filled up on the left."""
    return pad(states, (0, 0, length - states.shape[2], 0))
