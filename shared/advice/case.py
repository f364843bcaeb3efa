"""A training spec with the figures that advice needs: batch, steps, size of the model, memory of a card.

Where the model's shape is known (its config.json), memory is shared/advice/memory.py's whole estimate. Where only its
name tells a size, it is that of the model states: activations depend on the architecture, which a name does not tell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from shared.advice import fit, footprint
from shared.advice.cards import Cards
from shared.advice.memory import GIB
from shared.advice.shapes import Shape
from shared.spec import TrainSpec

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
    #: Weights of the model, billions, from its shape, else its name; None: neither is known.
    billions: float | None
    #: None: the model's config.json is not known.
    shape: Shape | None = None
    #: None: not known what it would run on.
    cards: Cards | None = None
    #: Statistics of the samples' lengths (`p50`, `p95`, `p99`, `length_mean`, `length_max` ...), as far as known.
    lengths: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fitted(self) -> fit.Fitted | None:
        """The estimate on the cards; None where shape or cards are not known."""
        return self.on() if self.cards is not None else None

    @cached_property
    def nearest(self) -> fit.Change | None:
        """The smallest change that makes it fit; None where it fits, where nothing does, or nothing is known."""
        if self.fitted is None or self.shape is None or self.fitted.verdict == fit.FITS:
            return None
        longest = self.lengths.get("length_max")
        return fit.nearest(self.spec, self.shape, self.fitted.cards, int(longest) if longest else None)

    def on(self, memory_gib: float | None = None, **changes: Any) -> fit.Fitted | None:
        """The estimate for the spec with other values, on the cards that there are or on such of this memory."""
        if self.shape is None:
            return None
        cards = self.cards if memory_gib is None else None
        cards = replace(cards or Cards(memory_gib=memory_gib or 80.0), count=self.num_devices)
        longest = self.lengths.get("length_max")
        return fit.fit(fit.changed(self.spec, changes), self.shape, cards, int(longest) if longest else None)

    @property
    def size(self) -> str:
        """`32.8B`."""
        return f"{self.billions or 0:.3g}B"

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
        if self.steps_per_epoch is None:
            return None
        return max(math.ceil(self.steps_per_epoch * train.num_train_epochs), 1)

    @property
    def steps_per_epoch(self) -> int | None:
        rows = self.sequences
        return None if rows is None else max(math.ceil(rows / self.rows_per_step), 1)

    @property
    def rows_per_step(self) -> int:
        """Of stage ppo a step answers several batches."""
        buffered = self.spec.plugged["ppo"].ppo_buffer_size if self.spec.tuning.stage == "ppo" else 1
        return self.effective_batch * int(buffered)

    @property
    def sequences(self) -> int | None:
        """What a batch is made of: rows, or what they are packed into; None where that is not known."""
        rows, data = self.train_rows, self.spec.data
        if rows is None or not data.packing:
            return rows
        mean = self.lengths.get("length_mean")
        return None if not mean else max(math.ceil(rows * min(float(mean), data.cutoff_len) / data.cutoff_len), 1)

    @property
    def tokens_per_step(self) -> int | None:
        """Real tokens of one step of all devices; None where the lengths are not known."""
        data, mean = self.spec.data, self.lengths.get("length_mean")
        if data.packing:
            return self.effective_batch * data.cutoff_len
        return None if not mean else round(self.effective_batch * min(float(mean), data.cutoff_len))

    @property
    def zero_stage(self) -> int:
        """DeepSpeed's stage, 0 without it."""
        return footprint.zero_stage(self.spec) or 0

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
