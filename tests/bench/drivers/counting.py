"""What another trainer's steps take, written down as JSON: for interpreters in which transformers' Trainer works.

Real tokens are counted alike for all: what stands before the padding at the end of each row. `shared` is not imported:
the interpreter is another project's.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback


class Steps(TrainerCallback):
    """The end of each step: when, and the tokens up to then."""

    def __init__(self, path: Path):
        self.path, self.num_tokens, self.steps = path, 0, list[dict[str, float]]()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps.append({"time": time.time(), "num_tokens": self.num_tokens})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if self.steps and logs and "loss" in logs:
            self.steps[-1]["loss"] = float(logs["loss"])

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.path.write_text(json.dumps(self.steps))


def watched(path: Path) -> Steps:
    """The callback to give to a trainer; every trainer of this process is counted."""
    counted, plain = Steps(path), Trainer.training_step

    def training_step(self: Trainer, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        counted.num_tokens += real(inputs["input_ids"], self.processing_class.pad_token_id)
        return plain(self, model, inputs, *rest, **named)

    Trainer.training_step = training_step
    return counted


def real(ids: Any, pad_id: int) -> int:
    """Tokens of b rows (b t) up to the last that is no padding."""
    is_text = ids != pad_id
    return int((is_text.flip(dims=[1]).cumsum(dim=1) > 0).sum())
