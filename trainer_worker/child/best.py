"""The model of the best validation so far, and the end of a training that no longer gets better.

The Trainer's own way keeps whole checkpoints and names one by its path, which means nothing to the next attempt of the
job. Here the weights that would be published are kept beside, and go into every checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shared.errors import InvalidSpec
from trainer_worker.child.context import Context

#: Below a checkpoint; not directly, where peft would take it for a second adapter.
FOLDER, WEIGHTS, STATE = "best", "model", "state.json"


class Best(TrainerCallback):
    """`save` writes the weights as they would be published; every rank takes part in it."""

    def __init__(self, context: Context, save: Callable[[Path], None]):
        self._context, self._loop, self._save = context, context.spec.loop, save
        self.folder = context.scratch / FOLDER / WEIGHTS
        #: Of the best validation, and how many there were since.
        self.state: dict[str, Any] = {"step": 0, "metrics": {}, "waited": 0}

    @property
    def is_kept(self) -> bool:
        return self._loop.load_best_model_at_end and bool(self.state["metrics"])

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> TrainerControl:
        if self._is_better(metrics):
            measured = {key: value for key, value in metrics.items() if key.startswith("eval_")}
            self.state = {"step": state.global_step, "metrics": measured, "waited": 0}
            if self._loop.load_best_model_at_end:
                if self._context.is_first:
                    # Its files are also those of checkpoints: written over, they would change there, too.
                    shutil.rmtree(self.folder, ignore_errors=True)
                self._save(self.folder)
            return control
        self.state["waited"] += 1
        patience = self._loop.early_stopping_steps
        if patience is not None and self.state["waited"] >= patience and state.global_step < state.max_steps:
            text = f"Stopped early: {patience} validations without a better {self._loop.best_metric}"
            self._context.emit("message", text, best_step=self.state["step"])
            control.should_training_stop = True
        return control

    def _is_better(self, metrics: dict[str, float]) -> bool:
        name = f"eval_{self._loop.best_metric}"
        if name not in metrics:
            measured = ", ".join(sorted(key.removeprefix("eval_") for key in metrics if key.startswith("eval_")))
            raise InvalidSpec(
                f"is {self._loop.best_metric}: validation measures {measured}", field="metric_for_best_model"
            )
        before = self.state["metrics"].get(name)
        if before is None:
            return True
        return metrics[name] > before if self._loop.best_is_greatest else metrics[name] < before

    def store(self, checkpoint: Path) -> None:
        """Leave the best so far in a checkpoint; its files are linked, not copied. For one rank."""
        (checkpoint / FOLDER).mkdir()
        (checkpoint / FOLDER / STATE).write_text(json.dumps(self.state))
        if self.is_kept:
            shutil.copytree(self.folder, checkpoint / FOLDER / WEIGHTS, copy_function=os.link)

    def load(self, checkpoint: Path) -> None:
        """Go on with what a checkpoint holds. For every rank."""
        if not (kept := checkpoint / FOLDER / STATE).exists():
            return
        self.state = json.loads(kept.read_text())
        if self.is_kept and self._context.is_first:
            shutil.copytree(checkpoint / FOLDER / WEIGHTS, self.folder, dirs_exist_ok=True)
