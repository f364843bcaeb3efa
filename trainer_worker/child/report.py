"""What a training tells, and how it is told to stop: callbacks of the Trainer.

Rank 0 alone writes events and reads control.json; what it reads it tells the others, so that all stop at the same step.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shared.errors import TunesmithError
from trainer_worker.child.context import Context
from trainer_worker.child.throughput import PEAKS, RATES

#: Progress events closer together than this help nobody.
PROGRESS_SECONDS = 1.0
WISHES = ("run", "pause", "cancel")
#: Members of a metrics event, in this order; after them what a stage measures besides, whose names have a slash.
MEASURED = (
    "loss", "reward", "learning_rate", "grad_norm", *RATES, *PEAKS, "num_tokens", "accuracy", "sft_loss",
    "odds_ratio_loss", "kl", "eval_loss", "eval_accuracy",
)  # fmt: skip


class Diverged(TunesmithError):
    """The loss is no number any more."""

    code = "diverged"


class Stopped(Exception):
    """The training ends without a result; `step` is that of its last checkpoint."""

    def __init__(self, step: int):
        self.step = step
        super().__init__(f"stopped at step {step}")


class Report(TrainerCallback):
    def __init__(self, context: Context):
        self._context = context
        self._told = 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        is_last = state.global_step >= state.max_steps
        if not self._context.startup.is_over:
            self._tell_startup()
        if is_last or time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._told = time.monotonic()
            self._context.emit("progress", done=state.global_step, total=state.max_steps, unit="steps")
        # The losses of the steps since the last event are not lost: at the end, and when training goes on from here.
        control.should_log = control.should_log or is_last or control.should_save
        return control

    def _tell_startup(self) -> None:
        startup = self._context.startup
        parts = str(startup)
        seconds = startup.end()
        text = f"First step after {seconds['total']:.1f} s: {parts}, first step {seconds['first_step']:.1f}"
        self._context.emit("message", text, startup_seconds=seconds)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._context.startup.mark("trainer")

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        control.should_log = control.should_log or control.should_save
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        measured = measured_in(logs or {})
        if not measured:
            return
        told = {"step": state.global_step, "total_steps": state.max_steps, "epoch": state.epoch, **measured}
        self._context.emit("metrics", **told)
        for name in ("loss", "eval_loss"):
            if not math.isfinite(measured.get(name, 0.0)):
                text = f"{name} is {measured[name]} at step {state.global_step}: lower the learning rate"
                raise Diverged(text, field="learning_rate")


def measured_in(logs: dict[str, Any]) -> dict[str, Any]:
    """What the Trainer logged that is told; it logs more at the end."""
    others = (name for name in logs if "/" in name or name.startswith("eval_"))
    return {name: logs[name] for name in dict.fromkeys((*MEASURED, *others)) if name in logs}


class Heed(TrainerCallback):
    """Stops the training when control.json says so."""

    def __init__(self, context: Context):
        self._context = context
        #: "run", or why the training was stopped.
        self.wish = "run"

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._ask() != "run":
            raise Stopped(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        # What is due at the end of an epoch comes after this step, and would be due no more when training goes on.
        is_early = float(state.epoch or 0).is_integer() and "epoch" in (args.eval_strategy, args.save_strategy)
        if state.global_step < state.max_steps and not is_early and (wish := self._ask()) != "run":
            self.wish = wish
            control.should_training_stop = True
            control.should_save = control.should_log = wish == "pause"
            # Whatever checkpoints usually hold: this one is where the training goes on.
            args.save_only_model = False
            # A validation that is due is made before the checkpoint: nobody would make it afterwards.
            control.should_evaluate = control.should_evaluate and wish == "pause"
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.wish != "run":  # in the middle of an epoch, of which the Trainer believes that it is over
            control.should_log = control.should_evaluate = control.should_save = False
        return control

    def _ask(self) -> str:
        wish = WISHES.index(self._context.attempt.wanted()) if self._context.is_first else 0
        if self._context.num_processes > 1:
            told = torch.tensor(wish, device=self._context.device)
            distributed.broadcast(told, src=0)
            wish = int(told.item())
        return WISHES[wish]
