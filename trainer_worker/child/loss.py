"""Cross-entropy of large vocabularies that keeps one half-precision gradient instead of several float32 copies.

The gradient with respect to the logits is computed together with the loss, a slice of rows at a time in float32, and
stored in the logits' own format; the backward pass only scales it. For 1,000 tokens and 49,152 words this keeps 98 MB
where PyTorch's own keeps 390 MB (the float32 logits and their log-softmax).
"""

from __future__ import annotations

from typing import Any

import torch

#: Rows worked on at once: 128 x 49,152 x 4 bytes are 25 MB.
ROWS = 128


class _Nll(torch.autograd.Function):
    # n: tokens, v: words
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:  # n v, n -> n
        losses = logits.new_empty(len(logits), dtype=torch.float32)
        # A model that is only read (a reference, a validation) needs none.
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for start in range(0, len(logits), ROWS):
            place = slice(start, start + ROWS)
            rows = logits[place].to(torch.float32, copy=True)
            log_sum = rows.logsumexp(dim=1, keepdim=True)
            chosen = targets[place, None]
            losses[place] = (log_sum - rows.gather(1, chosen))[:, 0]
            if gradient is not None:
                probabilities = rows.sub_(log_sum).exp_()
                gradient[place] = probabilities.scatter_add_(1, chosen, torch.full_like(log_sum, -1.0))
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
