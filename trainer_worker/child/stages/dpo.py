"""Direct preference optimization: make the better answer of a pair likelier than the worse one, near a reference.

Not TRL's DPOTrainer: it wants a Hugging Face dataset and its tokenizer, pads, averages each small batch by itself (so
that accumulation and several processes change the loss), computes logits for prompts too, and owns precision and
validation. Its losses are ours: for the same batch a test finds both equal, for each loss that it has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from shared.spec import TrainSpec
from shared.stages.dpo import REFERENCE_FREE
from trainer_worker.child import likelihood, preference, reference, training
from trainer_worker.child.batch import Pairs
from trainer_worker.child.context import Context
from trainer_worker.child.objective import Autocast, Batch, Measured, Sum
from trainer_worker.child.preference import AVERAGED, LOSSES, Scores
from trainer_worker.child.reference import Reference
from trainer_worker.child.setup import Made

#: What the objective leaves in a checkpoint.
STATE = "preference.json"


def run(context: Context) -> dict[str, Any]:
    return training.run(context, objective, batches=lambda inner: Pairs(inner=inner))


def objective(context: Context, made: Made) -> Preference:
    likelihood.without_dropout(made.model)
    needs_reference = context.spec.plugged["dpo"].pref_loss not in REFERENCE_FREE
    held = reference.load(context, made) if needs_reference else None
    return Preference(spec=context.spec, autocast=made.autocast, held=held)


# p: pairs; a batch has 2p samples: each pair's better answer, then its worse one
class Preference:
    def __init__(self, spec: TrainSpec, autocast: Autocast, held: Reference | None):
        self.given, self.shared = spec.plugged["dpo"], spec.preference
        self.autocast, self.held = autocast, held
        #: Sum and number of the mean rewards of all batches so far, for BCO.
        self.rewards = [0.0, 0.0]

    def __call__(self, model: torch.nn.Module, batch: Batch, *, validating: bool) -> Measured:
        before = None
        if self.held is not None:
            with self.held.reading() as model_before:
                before = self._logps(model_before, batch)[0]
        logps, means = self._logps(model, batch)
        ratios = logps if before is None else logps - before
        scores = self._scores(ratios)
        losses = LOSSES[self.given.pref_loss](scores)
        if self.given.pref_bco_weight:
            losses = self._with_bco(losses, scores, validating)
        nll = -means[:, 0]
        losses = losses + self.shared.pref_ftx * nll
        sums = measures(scores, logps) | (self._orpo(scores, nll) if self.given.pref_loss == "orpo" else {})
        return Measured(loss=losses.sum(), num_units=len(losses), sums=sums)

    def _logps(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each pair's answers (p 2): what the loss compares, and the mean log-probability of a token."""
        tokens = likelihood.token_logps(model, batch, self.autocast)  # n
        counts = torch.tensor(batch["counts"], device=tokens.device).view(-1, 2)
        sums = likelihood.by_sample(tokens, batch["counts"]).view(-1, 2)
        weighted = sums if self.given.ld_alpha is None else self._length_desensitized(tokens, batch["counts"])
        return (weighted / counts if self.given.pref_loss in AVERAGED else weighted), sums / counts

    def _length_desensitized(self, tokens: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """LD-DPO, https://arxiv.org/abs/2409.06411 Eq. 10: tokens beyond the shorter answer's length count `ld_alpha`,
        for the model and for the reference alike."""
        pairs = zip(counts[::2], counts[1::2], strict=True)
        shorter = [min(pair) for pair in pairs for _ in range(2)]
        weights = torch.full_like(tokens, float(self.given.ld_alpha))
        for part, length in zip(weights.split(counts), shorter, strict=True):
            part[:length] = 1.0
        return likelihood.by_sample(tokens * weights, counts).view(-1, 2)

    def _scores(self, ratios: torch.Tensor) -> Scores:
        return Scores(
            chosen=ratios[:, 0],
            rejected=ratios[:, 1],
            beta=self.shared.pref_beta,
            smoothing=self.given.dpo_label_smoothing,
            gamma=self.given.simpo_gamma,
            mean=likelihood.mean_over_processes,
        )

    def _with_bco(self, losses: torch.Tensor, scores: Scores, validating: bool) -> torch.Tensor:
        """The mean of both losses by weight; the shift is the mean reward of all batches so far, as in LF."""
        rewards = scores.beta * torch.cat([scores.chosen, scores.rejected]).detach()
        mean = float(likelihood.mean_over_processes(rewards))
        if not validating:
            self.rewards = [self.rewards[0] + mean, self.rewards[1] + 1]
        shift = self.rewards[0] / max(self.rewards[1], 1)
        weight = self.given.pref_bco_weight
        return (losses + weight * preference.bco(scores, shift)) / (1 + weight)

    def _orpo(self, scores: Scores, nll: torch.Tensor) -> dict[str, Sum]:
        return {
            "sft_loss": (nll.detach().sum(), len(nll)),
            "odds_ratio_loss": (preference.odds_ratio(scores).detach().sum(), len(nll)),
        }

    def save(self, folder: Path) -> None:
        if self.given.pref_bco_weight:
            (folder / STATE).write_text(json.dumps({"rewards": self.rewards}))

    def load(self, folder: Path) -> None:
        if self.given.pref_bco_weight:
            self.rewards = json.loads((folder / STATE).read_text())["rewards"]


def measures(scores: Scores, logps: torch.Tensor) -> dict[str, Sum]:
    """Under TRL's names."""
    pairs = len(logps)
    chosen, rejected = (scores.beta * score.detach() for score in (scores.chosen, scores.rejected))
    own = logps.detach().sum(dim=0)
    return {
        "rewards/chosen": (chosen.sum(), pairs),
        "rewards/rejected": (rejected.sum(), pairs),
        "rewards/accuracies": ((chosen > rejected).sum(), pairs),
        "logps/chosen": (own[0], pairs),
        "logps/rejected": (own[1], pairs),
    }
