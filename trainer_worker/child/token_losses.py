"""Losses of a token that are not its plain negative log-likelihood, with the memory of the plain one (loss.py).

Each is a function of the log-probabilities of a slice of rows and of their targets, and says its gradient with respect
to the logits, which is computed together with the loss and kept in the logits' own format. p is the distribution that
the model predicts, t the target, p_t its probability, onehot the distribution that is 1 at t. Weights of a token are
constants: no gradient flows through them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from trainer_worker.child.loss import slices

# n: tokens, v: words, r: rows of a slice
#: Log-probabilities (r v), targets (r 1) and where the slice lies -> losses (r 1) and their gradient (r v).
Rule = Callable[[torch.Tensor, torch.Tensor, slice], tuple[torch.Tensor, torch.Tensor]]
#: Logits (n v) and targets (n) -> losses (n).
TokenLosses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: Of EAFT: words that are asked for the uncertainty; its largest value is ln 20, which the paper rounds to 3.
TOP_WORDS, TOP_ENTROPY = 20, 3.0


class _BySlices(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, rule: Rule) -> torch.Tensor:
        losses = logits.new_empty(len(logits), dtype=torch.float32)
        gradient = torch.empty_like(logits)
        for place in slices(logits):
            log_p = logits[place].float().log_softmax(dim=1)
            loss, slope = rule(log_p, targets[place, None], place)
            losses[place], gradient[place] = loss[:, 0], slope
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(outer[0][:, None].to(gradient.dtype)), None, None


def by_slices(rule: Rule, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    losses: torch.Tensor = _BySlices.apply(logits, targets, rule)
    return losses


def dft() -> TokenLosses:
    """Dynamic fine-tuning: p_t (-log p_t), p_t as a weight; gradient p_t (p - onehot) (arXiv 2508.05629)."""
    return partial(by_slices, _dft)


def eaft(power: float) -> TokenLosses:
    """Entropy-adaptive fine-tuning: (H / 3)^power (-log p_t), H the entropy among the 20 likeliest words, as a weight
    (arXiv 2601.02151)."""

    def rule(log_p: torch.Tensor, targets: torch.Tensor, _: slice) -> tuple[torch.Tensor, torch.Tensor]:
        top = log_p.topk(min(TOP_WORDS, log_p.shape[1]), dim=1).values.log_softmax(dim=1)
        weight = (-(top.exp() * top).sum(dim=1, keepdim=True) / TOP_ENTROPY) ** power
        return _weighted(log_p, targets, weight)

    return partial(by_slices, rule)


def smoothed(share: float) -> TokenLosses:
    """Label smoothing: (1 - share) (-log p_t) + share * mean over words of -log p; gradient p - smoothed onehot."""

    def rule(log_p: torch.Tensor, targets: torch.Tensor, _: slice) -> tuple[torch.Tensor, torch.Tensor]:
        losses = (share - 1) * log_p.gather(1, targets) - share * log_p.mean(dim=1, keepdim=True)
        slope = log_p.exp().sub_(share / log_p.shape[1])
        return losses, slope.scatter_add_(1, targets, torch.full_like(losses, share - 1))

    return partial(by_slices, rule)


def asft(logits: torch.Tensor, targets: torch.Tensor, anchor: torch.Tensor, weight: float) -> torch.Tensor:
    """Anchored fine-tuning: DFT + weight * KL(q || p), q what the model predicted before it was trained, `anchor` the
    logits of that; gradient of the KL p - q (arXiv 2509.23753)."""

    def rule(log_p: torch.Tensor, targets: torch.Tensor, place: slice) -> tuple[torch.Tensor, torch.Tensor]:
        log_q = anchor[place].float().log_softmax(dim=1)
        q = log_q.exp()
        losses, slope = _dft(log_p, targets, place)
        distance = (q * (log_q - log_p)).sum(dim=1, keepdim=True)
        return losses + weight * distance, slope.add_(log_p.exp() - q, alpha=weight)

    return by_slices(rule, logits, targets)


def _dft(log_p: torch.Tensor, targets: torch.Tensor, _: slice) -> tuple[torch.Tensor, torch.Tensor]:
    return _weighted(log_p, targets, log_p.gather(1, targets).exp())


def _weighted(log_p: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """weight (-log p_t) with the gradient weight (p - onehot)."""
    slope = log_p.exp()
    slope.scatter_add_(1, targets, torch.full_like(weight, -1.0))
    return -weight * log_p.gather(1, targets), slope.mul_(weight)
