"""Cross-entropy of large vocabularies that keeps one half-precision gradient instead of several float32 copies.

The gradient with respect to the logits is computed together with the loss, a slice of rows at a time in float32, and
stored in the logits' own format; the backward pass only scales it. For 1,000 tokens and 49,152 words this keeps 98 MB
where PyTorch's own keeps 390 MB (the float32 logits and their log-softmax).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

#: Rows worked on at once, by kind of device. 16 x 49,152 x 4 bytes are 3 MB, which a CPU's cache holds: 28 ms instead
#: of 61 ms for 300 rows with 128 at once, which takes 96 ms where the log-sum is left to PyTorch.
ROWS = {"cpu": 16, "cuda": 1024}


def slices(logits: torch.Tensor) -> Iterator[slice]:
    """Rows to work on at once."""
    size = ROWS.get(logits.device.type, ROWS["cuda"])
    return (slice(start, start + size) for start in range(0, len(logits), size))


class _Nll(torch.autograd.Function):
    # n: tokens, v: words
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:  # n v, n -> n
        losses = logits.new_empty(len(logits), dtype=torch.float32)
        # A model that is only read (a reference, a validation) needs none.
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for place in slices(logits):
            rows, chosen = logits[place].to(torch.float32, copy=True), targets[place, None]
            largest, own = rows.amax(dim=1, keepdim=True), rows.gather(1, chosen)
            # In place from here on: what is written stays in the cache.
            total = rows.sub_(largest).exp_().sum(dim=1, keepdim=True)
            losses[place] = (total.log() + largest - own)[:, 0]
            if gradient is not None:
                probabilities = rows.mul_(total.reciprocal())
                gradient[place] = probabilities.scatter_add_(1, chosen, torch.full_like(total, -1.0))
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(outer[0][:, None].to(gradient.dtype)), None


def nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each target (no ignored ones among them), float32: n v, n -> n."""
    losses: torch.Tensor = _Nll.apply(logits, targets)
    return losses
