"""A training spec with the figures that advice needs: batch, steps, size of the model, bytes a card.

Memory is model states only (weights, gradients, optimizer): activations depend on the architecture, which a name does
not tell.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from shared.spec import TrainSpec

GIB = 1024**3
#: Bytes of one weight as it is loaded; 4-bit with double quantization, 8-bit with its scales.
BYTES_PER_WEIGHT = {None: 2.0, 8: 1.03, 4: 0.516}
#: Weights, gradients and optimizer of one trained weight: all bfloat16, or with float32 copies (least, most).
PURE_BF16_BYTES = 8
MIXED_BYTES = (16, 18)
#: What ZeRO-3 keeps beside its share: live parameters and buckets.
ZERO3_EXTRA_GIB = 4.0


@dataclass(frozen=True, kw_only=True)
class Case:
    spec: TrainSpec
    #: Rows of the training datasets together; None: not known.
    num_rows: int | None
    num_devices: int
    #: Weights of the model, billions, from its name; None: the name does not say.
    billions: float | None

    @property
    def effective_batch(self) -> int:
        train = self.spec.train
        return train.per_device_train_batch_size * train.gradient_accumulation_steps * self.num_devices

    @property
    def train_rows(self) -> int | None:
        """Rows that are trained on: what is left after `max_samples` and validation."""
        if self.num_rows is None:
            return None
        data = self.spec.data
        rows = min(self.num_rows, data.max_samples * len(data.dataset)) if data.max_samples else self.num_rows
        held_out = int(data.val_size) if data.val_size >= 1 else math.ceil(rows * data.val_size)
        return max(rows - held_out, 0)

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole training; packed samples are fewer, which is not known before they are packed."""
        train = self.spec.train
        if train.max_steps > 0:
            return train.max_steps
        if self.train_rows is None or self.spec.data.packing:
            return None
        per_epoch = max(math.ceil(self.train_rows / self.effective_batch), 1)
        return max(math.ceil(per_epoch * train.num_train_epochs), 1)

    @property
    def zero_stage(self) -> int:
        """DeepSpeed's stage, 0 without it."""
        distributed = self.spec.distributed
        if distributed.zero_stage is not None:
            return distributed.zero_stage
        return int((distributed.deepspeed or {}).get("zero_optimization", {}).get("stage", 0))

    @property
    def validates(self) -> bool:
        return self.spec.data.val_size > 0 or bool(self.spec.data.eval_dataset)

    def frozen_gib(self, zero_stage: int) -> float:
        """A frozen model on each card: whole, or a share and ZeRO-3's extra."""
        whole = (self.billions or 0) * 1e9 * BYTES_PER_WEIGHT[self.spec.model.quantization_bit] / GIB
        return whole if zero_stage < 3 else whole / self.num_devices + ZERO3_EXTRA_GIB

    def full_gib(self, bytes_per_weight: float) -> float:
        """Everything of a full training on each card when it is shared by all of them."""
        return (self.billions or 0) * 1e9 * bytes_per_weight / GIB / self.num_devices


def billions_of(model_name: str) -> float | None:
    """Billions of weights as the name says: `Qwen3-4B` 4, `SmolLM2-135M` 0.135, `Mixtral-8x7B` not told."""
    name = model_name.rsplit("/", 1)[-1]
    if re.search(r"\d+x\d", name):
        return None
    found = re.search(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([bBmM])(?![A-Za-z0-9])", name)
    if found is None:
        return None
    size = float(found[1])
    return size if found[2] in "bB" else size / 1000
