"""What a stage learns from a batch: its loss and what is told of it, as sums that any number of processes can add up.

A stage brings one `Objective`; the Trainer (trainer.py) divides by the number of what was summed in the whole step,
averages over processes and reports. Nothing here knows of steps, ranks or checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from trainer_worker.child.loss import nll
from trainer_worker.child.noise import Noise
from trainer_worker.child.token_losses import TokenLosses, asft

Batch = Mapping[str, Any]
#: Enters the number format in which models compute.
Autocast = Callable[[], AbstractContextManager[object]]
#: A sum, and the number of what was summed.
Sum = tuple[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Measured:
    #: Summed over the batch's units (tokens, pairs, answers), as many as its `labels`.
    loss: torch.Tensor
    num_units: int
    #: Of everything else that is reported, by its name; the same names in every batch of every process.
    sums: Mapping[str, Sum] = field(default_factory=dict)


class Objective(Protocol):
    def __call__(self, model: torch.nn.Module, batch: Batch, *, validating: bool) -> Measured: ...

    def save(self, folder: Path) -> None:
        """Leave in a checkpoint what the objective itself has learned so far."""

    def load(self, folder: Path) -> None:
        """Go on from there."""


class Stateless:
    """For objectives that learn nothing themselves."""

    def save(self, folder: Path) -> None:
        pass

    def load(self, folder: Path) -> None:
        pass


# n: learned tokens of the batch, v: words
def learned_logits(model: torch.nn.Module, batch: Batch, autocast: Autocast) -> torch.Tensor:  # n v
    return learned(forward(model, batch, autocast), batch)


def forward(model: torch.nn.Module, batch: Batch, autocast: Autocast) -> Any:
    with autocast():
        return model(**batch["inputs"])


def learned(output: Any, batch: Batch) -> torch.Tensor:  # n v
    logits: torch.Tensor = output.logits.flatten(0, 1)
    return logits if batch["learned"] is None else logits[batch["learned"]]


@dataclass(frozen=True, kw_only=True)
class NextToken(Stateless):
    """The mean negative log-likelihood of the learned tokens."""

    autocast: Autocast
    #: Also tell how often the likeliest token is the right one.
    accuracy: bool = False
    #: What is minimised instead of it, while validation tells the plain one.
    token_losses: TokenLosses = nll
    #: On the embeddings, while training.
    noise: Noise | None = None
    #: Of the loss by which a mixture of experts spreads its tokens over them; None: it has none.
    router_weight: float | None = None
    #: Under ASFT the logits of the model as it was (n v), and the weight of the distance to it.
    anchor: Callable[[Batch], torch.Tensor] | None = None
    anchor_weight: float = 0.0

    def __call__(self, model: torch.nn.Module, batch: Batch, *, validating: bool) -> Measured:
        with nullcontext() if self.noise is None or validating else self.noise.on(batch["inputs"]):
            output = forward(model, batch, self.autocast)
        logits, targets = learned(output, batch), batch["targets"]
        sums: dict[str, Sum] = {}
        if self.accuracy:
            sums["accuracy"] = (logits.detach().argmax(dim=1) == targets).sum(), len(targets)
        if validating:
            return Measured(loss=nll(logits, targets).sum(), num_units=len(targets), sums=sums)
        if self.anchor is None:
            loss = self.token_losses(logits, targets).sum()
        else:
            loss = asft(logits, targets, self.anchor(batch), self.anchor_weight).sum()
        if self.router_weight is not None:
            # The mean over the step's tokens is taken of all, so each batch's share counts by its tokens.
            loss = loss + self.router_weight * len(targets) * output.aux_loss
        return Measured(loss=loss, num_units=len(targets), sums=sums)
