"""Kahneman-Tversky optimization: learn from single answers labelled desirable or not, near a reference.

Not TRL's KTOTrainer, for the reasons in dpo.py, and because it reads the data in the order of the file. How far the
model is from its reference (KL) is estimated per batch, over all processes, on prompts with the answer of the row
before, as LLaMA Factory does: TRL takes answers of the same batch, which a batch of one does not have. For the same
batch the loss is TRL's; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from shared.spec import TrainSpec
from trainer_worker.child import likelihood, preference, reference, training
from trainer_worker.child.batch import Labels
from trainer_worker.child.context import Context
from trainer_worker.child.objective import Autocast, Batch, Measured, Stateless, Sum
from trainer_worker.child.reference import Reference
from trainer_worker.child.setup import Made


def run(context: Context) -> dict[str, Any]:
    return training.run(context, objective, batches=lambda inner: Labels(inner=inner))


def objective(context: Context, made: Made) -> Verdicts:
    likelihood.without_dropout(made.model)
    return Verdicts(spec=context.spec, autocast=made.autocast, held=reference.load(context, made))


# a: answers
@dataclass(frozen=True, kw_only=True)
class Verdicts(Stateless):
    spec: TrainSpec
    autocast: Autocast
    held: Reference

    def __call__(self, model: torch.nn.Module, batch: Batch, *, validating: bool) -> Measured:
        beta, labels = self.spec.preference.pref_beta, batch["labels"]
        with self.held.reading() as before:
            logps_before = self._logps(before, batch)
            mismatched_before = self._logps(before, batch["mismatched"])
        with torch.no_grad():
            mismatched = self._logps(model, batch["mismatched"])
        kl = likelihood.mean_over_processes(mismatched - mismatched_before).clamp(min=0)
        logps = self._logps(model, batch)
        ratios = logps - logps_before
        losses = preference.kto(ratios, labels, kl, beta) * self._weights(labels)
        counts = torch.tensor(batch["counts"], device=logps.device)
        # Averaged over all answers of the step, also those that are not desirable.
        losses = losses - self.spec.preference.pref_ftx * labels * logps / counts
        sums = measures(beta * ratios.detach(), logps.detach(), labels) | {"kl": (kl, 1)}
        return Measured(loss=losses.sum(), num_units=len(labels), sums=sums)

    def _logps(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:  # a
        return likelihood.by_sample(likelihood.token_logps(model, batch, self.autocast), batch["counts"])

    def _weights(self, labels: torch.Tensor) -> torch.Tensor:
        given = self.spec.plugged["kto"]
        return torch.where(labels == 1, given.kto_chosen_weight, given.kto_rejected_weight)


def measures(rewards: torch.Tensor, logps: torch.Tensor, labels: torch.Tensor) -> dict[str, Sum]:
    """Under TRL's names; of each kind of answer a mean over those there are."""
    found: dict[str, Sum] = {}
    for name, mask in (("chosen", labels == 1), ("rejected", labels == 0)):
        found[f"rewards/{name}"] = rewards[mask].sum(), mask.sum()
        found[f"logps/{name}"] = logps[mask].sum(), mask.sum()
    return found
