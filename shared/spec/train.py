"""The spec of a training job: its groups, and the rules between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared import templates
from shared.param import group
from shared.rules import rule
from shared.spec.data import Data
from shared.spec.distributed import Distributed
from shared.spec.model import Model
from shared.spec.optimizer import Train
from shared.spec.output import Output
from shared.spec.tuning import Freeze, Lora, Tuning


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    model: Model = group(Model)
    data: Data = group(Data)
    tuning: Tuning = group(Tuning)
    lora: Lora = group(Lora, prefix="lora_")
    freeze: Freeze = group(Freeze, prefix="freeze_")
    train: Train = group(Train)
    distributed: Distributed = group(Distributed)
    output: Output = group(Output)

    def resolved(self) -> TrainSpec:
        """The same spec with every default that depends on another value written out."""
        packing = self.data.neat_packing or (self.tuning.stage == "pt" if self.data.packing is None else self.data.packing)
        validated = self.data.val_size > 0 or bool(self.data.eval_dataset)
        strategy = "steps" if validated and self.train.eval_strategy == "no" else self.train.eval_strategy
        return replace(
            self,
            data=replace(self.data, packing=packing, template=templates.settled(self.data.template)),
            lora=replace(self.lora, alpha=self.lora.alpha or 2 * self.lora.rank),
            train=replace(
                self.train, eval_strategy=strategy, eval_steps=self.train.eval_steps or self.train.logging_steps
            ),
        )
