"""Reward model: one number for a text, read at its last token, higher for the better answer of a pair.

The loss is that of Bradley and Terry (https://arxiv.org/abs/2203.02155 Eq. 1): -log s(r(x, y_w) - r(x, y_l)), TRL's
RewardTrainer's for the same batch (a test compares them); not on its trainer for the reasons in dpo.py. What comes out
is transformers' classification model with one label: whole, or a peft adapter of task SEQ_CLS with the head in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import logsigmoid

from shared.errors import InvalidSpec
from trainer_worker.child import tokenizer, training
from trainer_worker.child.batch import Pairs
from trainer_worker.child.context import Context
from trainer_worker.child.model import HEAD
from trainer_worker.child.objective import Autocast, Batch, Measured, Stateless
from trainer_worker.child.setup import Made


def run(context: Context) -> dict[str, Any]:
    return training.run(context, objective, batches=lambda inner: Pairs(inner=inner, scored=True))


def objective(context: Context, made: Made) -> Ranking:
    inner: Any = made.model.get_base_model() if isinstance(made.model, PeftModel) else made.model
    head = getattr(inner, HEAD, None)
    if not isinstance(head, torch.nn.Module):
        text = f"{type(inner).__name__} has no head named {HEAD}: not supported"
        raise InvalidSpec(text, field="model_name_or_path")
    # Others read the score at the last token that is no padding: see tokenizer.py.
    loaded = tokenizer.load(context.run["model_path"], context.spec)
    inner.config.get_text_config().pad_token_id = loaded.pad_token_id
    return Ranking(head=head, dtype=made.precision.trained, autocast=made.autocast)


# p: pairs; a batch has 2p samples: each pair's better answer, then its worse one
@dataclass(frozen=True, kw_only=True)
class Ranking(Stateless):
    head: torch.nn.Module
    #: Of the head, which computes in it: differences of scores are small.
    dtype: torch.dtype
    autocast: Autocast

    def __call__(self, model: torch.nn.Module, batch: Batch, *, validating: bool) -> Measured:
        chosen, rejected = self.scores(model, batch).view(-1, 2).unbind(dim=1)  # p, p
        losses = -logsigmoid(chosen - rejected)
        count = len(losses)
        sums = {
            "accuracy": ((chosen > rejected).sum(), count),
            "rewards/chosen": (chosen.detach().sum(), count),
            "rewards/rejected": (rejected.detach().sum(), count),
        }
        return Measured(loss=losses.sum(), num_units=count, sums=sums)

    def scores(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:  # 2p
        """By the place of each last token: in a row of several samples transformers would find only the last."""
        with self.autocast():
            hidden = model(**batch["inputs"], output_hidden_states=True).hidden_states[-1]
        last = hidden.flatten(0, 1)[batch["ends"]]
        scores: torch.Tensor = self.head(last.to(self.dtype))[:, 0].float()
        return scores
