"""How likely a model finds the learned tokens of each sample of a batch; means over processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed

from trainer_worker.child.loss import nll
from trainer_worker.child.objective import Autocast, Batch, learned_logits


# n: learned tokens of the batch, s: samples
def token_logps(model: torch.nn.Module, batch: Batch, autocast: Autocast) -> torch.Tensor:  # n
    return -nll(learned_logits(model, batch, autocast), batch["targets"])


def by_sample(values: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:  # n -> s
    """Sums over the tokens of each sample."""
    return torch.stack([piece.sum() for piece in values.split(list(counts))])


def mean_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The mean of all processes' values, of which each must bring some."""
    pair = torch.stack([values.sum(), values.new_tensor(float(values.numel()))])
    if distributed.is_initialized():
        distributed.all_reduce(pair)
    return pair[0] / pair[1]


def without_dropout(model: torch.nn.Module) -> None:
    """Two passes over the same text must differ by their weights alone."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
