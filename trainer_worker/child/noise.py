"""NEFTune: noise on the embeddings while training (arXiv 2310.05914, algorithm 1).

Each sample of L tokens and width d gets alpha / sqrt(L d) * eps, eps uniform in [-1, 1]. The Trainer's own switch takes
the length of the whole row for L, which is wrong where several samples lie in one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Noise:
    """Acts between the embedding layer and the rest, while a batch is announced."""

    def __init__(self, embeddings: torch.nn.Module, alpha: float):
        self.alpha = alpha
        #: Length of the sample to which each token belongs; None: no noise.
        self._lengths: torch.Tensor | None = None  # b t
        embeddings.register_forward_hook(self._add)

    @contextmanager
    def on(self, inputs: dict[str, Any]) -> Iterator[None]:
        self._lengths = lengths_of(inputs)
        try:
            yield
        finally:
            self._lengths = None

    def _add(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:  # b t d
        if self._lengths is None:
            return output
        scale = self.alpha / (self._lengths * output.shape[-1]).float().sqrt()
        noise = torch.empty_like(output, dtype=torch.float32).uniform_(-1, 1) * scale[..., None]
        return output + noise.to(output.dtype)


def lengths_of(inputs: dict[str, Any]) -> torch.Tensor:
    """b t: of each token the number of tokens of its sample; 1 for padding."""
    if (mask := inputs.get("attention_mask")) is not None:
        return mask.sum(dim=1, keepdim=True).expand_as(mask)
    (positions,) = inputs["position_ids"]
    starts = (positions == 0).nonzero()[:, 0]
    ends = torch.cat([starts[1:], starts.new_tensor([len(positions)])])
    return (ends - starts).repeat_interleave(ends - starts)[None]
