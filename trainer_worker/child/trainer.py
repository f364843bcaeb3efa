"""transformers' Trainer with a stage's objective, our validation, and checkpoints that appear whole or not at all.

What it adds: losses and measures that are means over a whole step whatever the number of processes and of small
batches, a validation in the same way, real tokens per second (padding is not counted). Everything else (optimizer,
schedule, distribution, resuming) is the Trainer's. What is learned is in objective.py and the stages, what is reported
and when it stops in report.py.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Trainer

from shared import volumes
from shared.ladder import VALIDATING
from trainer_worker.child import doing, optimizers, sight
from trainer_worker.child.arguments import schedule_options
from trainer_worker.child.best import Best
from trainer_worker.child.context import Context
from trainer_worker.child.journal import ELAPSED
from trainer_worker.child.objective import Objective, Sum
from trainer_worker.child.throughput import Throughput

#: What the libraries leave beside the weights and nobody needs: a pickle of machine paths, an empty model card.
LEFTOVERS = ("training_args.bin", "README.md")
#: The second copy of an adapter that stage `dpo` or `kto` goes on with: it is where it came from.
REFERENCE = "reference"
#: Local checkpoints kept at least: the newest may still be on its way to the storage.
MIN_KEPT = 2
#: The two parts of a checkpoint: all that the training needs to go on, and the model as it would be published.
STATE, MODEL = "state", "model"
#: Of a model, what a training goes on with.
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json")


class StageTrainer(Trainer):
    def __init__(self, context: Context, objective: Objective, **rest: Any):
        super().__init__(**rest)
        self.context = context
        self.objective = objective
        # Our loss is a sum divided by the number of its labels in the whole step, and token labels are shifted.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False
        #: Where a checkpoint is written before it gets its name.
        self._staging = context.checkpoints.with_name("checkpoint-in-work")
        self.throughput = Throughput(context.device, context.rank, context.num_processes)
        #: What computes, by what it is for; told with the result.
        self.kernels: Mapping[str, Any] = {}
        #: Since the last metrics event, of what the objective measures: sum and number by name.
        self._sums: dict[str, torch.Tensor] = {}
        #: Of the best validation, where it is asked for.
        self.best: Best | None = None
        #: Writes the model as it would be published into a folder; every rank takes part. None: it cannot be yet.
        self.publish: Callable[[Path], None] | None = None
        #: Whether its weights are those that the training goes on with.
        self.publishes_state = False
        #: Format of the weights that are saved; None: as they are trained.
        self.saved_dtype: torch.dtype | None = None

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        self.optimizer = self.optimizer or optimizers.make(self, self.context.spec)
        made: torch.optim.Optimizer = super().create_optimizer(model)
        return made

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        self.args.lr_scheduler_kwargs = schedule_options(
            self.context.spec, self.args.get_warmup_steps(num_training_steps), num_training_steps
        )
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The mean over the step's labels; times the processes, because their gradients are averaged."""
        measured = self.objective(model, inputs, validating=False)
        self._add(self._sums, measured.sums)
        return measured.loss * (self.args.world_size / num_items_in_batch)

    def _add(self, sums: dict[str, torch.Tensor], new: Mapping[str, Sum], weight: float = 1.0) -> None:
        """Kept on the device: to ask for a number is to wait for it, at every step."""
        for name, pair in new.items():
            parts = [torch.as_tensor(part, dtype=torch.float64, device=self.args.device).detach() for part in pair]
            sums[name] = sums.get(name, 0.0) + torch.stack(parts) * weight

    def _means(self, sums: dict[str, torch.Tensor]) -> dict[str, float]:
        """Over all processes; what was nowhere to be seen is left out."""
        if not sums:
            return {}
        total = self._sum(torch.cat(list(sums.values())).tolist())
        pairs = zip(sums, total[::2], total[1::2], strict=True)
        means = {name: value / number for name, value, number in pairs if number}
        if {"rewards/chosen", "rewards/rejected"} <= means.keys():
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
        return means

    def get_batch_samples(self, *arguments: Any) -> Any:
        self.throughput.begin(self.state.global_step)
        return super().get_batch_samples(*arguments)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        self.throughput.add(inputs)
        return super().training_step(model, inputs, num_items_in_batch)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._speed() | self._means(self._sums)
            self._sums = {}
        super().log(logs, start_time)

    def _speed(self) -> dict[str, float]:
        """Of all processes, since the last time."""
        done = self.throughput.take(self.state.global_step, self._sum)
        self.state.num_input_tokens_seen += int(done.tokens)
        return done.rates() | self.throughput.peaks() | {"num_tokens": self.state.num_input_tokens_seen}

    def _sum(self, numbers: list[float]) -> list[float]:
        here = torch.tensor(numbers, dtype=torch.float64, device=self.args.device)
        summed: list[float] = self.accelerator.reduce(here, "sum").tolist()
        return summed

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The validation loss: a mean over all that is learned, the same for any number of processes; where datasets
        are told apart, of each beside that of all."""
        self.model.eval()
        sums: dict[str, torch.Tensor] = {}
        with self.throughput.away(), torch.no_grad(), doing.at(VALIDATING):
            for name, batch, is_ours in self._eval_batches():
                measured = self.objective(self.model, self._prepare_inputs(batch), validating=True)
                found = {"loss": (measured.loss, measured.num_units), **measured.sums}
                own = {f"{name}_{measure}": pair for measure, pair in found.items()} if name else {}
                self._add(sums, found | own, float(is_ours))
            metrics = {f"eval_{name}": value for name, value in self._means(sums).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _eval_batches(self) -> Iterator[tuple[str, dict[str, Any], bool]]:
        """This rank's batches of each dataset; its last may count for nothing: under ZeRO-3 every rank must compute."""
        size = self.args.per_device_eval_batch_size
        for name, rows in self.eval_dataset.items():
            starts = list(range(0, len(rows), size))
            for index in range(self.context.rank, self._rounded(len(starts)), self.context.num_processes):
                start = starts[min(index, len(starts) - 1)]
                items = [rows[row] for row in range(start, min(start + size, len(rows)))]
                yield name, self.data_collator(items), index < len(starts)

    def _rounded(self, count: int) -> int:
        return -(-count // self.context.num_processes) * self.context.num_processes

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """One that cannot be written, on a full disk, costs no training that needs it no more; a pause does."""
        began = time.monotonic()
        with self.throughput.away():
            try:
                self._write_checkpoint(model, trial)
                problem = ""
            except (OSError, RuntimeError, SafetensorError) as error:
                if self.is_deepspeed_enabled or isinstance(error, torch.OutOfMemoryError) or self._must_save():
                    raise
                volume = volumes.fullest([self.context.scratch])
                full = f". A disk is full: {volume}" if volume is not None and volume.is_full else ""
                problem = f"{type(error).__name__}: {error}{full}"
            is_written = not self._sum([float(bool(problem))])[0]
            if is_written and self.context.num_processes > 1:
                problem = self._out_of_sight()
            if not self.context.is_first:
                return
            if is_written and not problem:
                self._name_checkpoint(began)
                return
            shutil.rmtree(self._staging, ignore_errors=True)
            text = f"The checkpoint of step {self.state.global_step} could not be written: {problem}"
            if self._must_save():
                raise OSError(text)
            self.context.emit("message", text, "warning")

    def _out_of_sight(self) -> str:
        """What rank 0, whose worker seals the checkpoint, does not see of what all wrote; asked on every rank."""
        folder = self._staging / f"checkpoint-{self.state.global_step}"
        told = sight.told_by_all(folder)
        missing = sight.lacking(folder, told) if self.context.is_first else []
        text = "node 0 does not see {} that other ranks wrote: the nodes' storage must be one folder, seen by all"
        return text.format(", ".join(missing)) if missing else ""

    def _must_save(self) -> bool:
        """The training stops before its end."""
        return self.control.should_training_stop and self.state.global_step < self.state.max_steps

    def _write_checkpoint(self, model: Any, trial: Any) -> None:
        """Written beside, then renamed: what stands below checkpoints/ is whole."""
        if self.context.is_first:
            shutil.rmtree(self._staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        if self.publish is not None:
            self.publish(self._staging / MODEL)
        if not self.args.save_only_model:
            super()._save_checkpoint(model, trial)
        if self.context.is_first and (written := self._staging / f"checkpoint-{self.state.global_step}").exists():
            self.objective.save(written)
            if self.best is not None:
                self.best.store(written)

    def _name_checkpoint(self, began: float) -> None:
        """Since `began`, by the monotonic clock, the training stood still."""
        step, written = self.state.global_step, self._staging / f"checkpoint-{self.state.global_step}"
        if written.exists():
            written.rename(self._staging / STATE)
        place = self.context.checkpoints / written.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        self._staging.rename(place)
        within = place.relative_to(self.context.attempt.folder.resolve())
        paths = {
            said: str(within / part) for said, part in (("path", STATE), ("model", MODEL)) if (place / part).exists()
        }
        metrics = measured_at(self.state.log_history, step)
        told = {"metrics": metrics, "seconds": time.monotonic() - began, **paths}
        self.context.emit("checkpoint", f"Checkpoint of step {step}", step=step, **told)
        self._remove_old()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Into a checkpoint's state, once only: a DeepSpeed engine has the weights in files of its own."""
        if not _internal_call or not (self.publishes_state or self.is_deepspeed_enabled):
            super().save_model(output_dir, _internal_call)
        elif self.context.is_first and not self.is_deepspeed_enabled:
            link(self._staging / MODEL, Path(str(output_dir)), *WEIGHTS)

    def _remove_old(self) -> None:
        limit = self.context.spec.train.save_total_limit
        if limit is not None:
            kept = sorted(self.context.checkpoints.iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
            for path in kept[: -max(limit, MIN_KEPT)]:
                shutil.rmtree(path, ignore_errors=True)  # the worker may be removing it, too

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if state_dict is None and self.saved_dtype is not None:
            state_dict = self.model.state_dict()
        super()._save(output_dir, None if state_dict is None else self._as_saved(state_dict))
        folder = Path(str(output_dir))
        for name in LEFTOVERS:
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / REFERENCE, ignore_errors=True)
        set_member(folder / "adapter_config.json", "base_model_name_or_path", self.context.run["base_name"])
        if self.saved_dtype is not None:
            set_member(folder / "config.json", "dtype", str(self.saved_dtype).removeprefix("torch."))

    def _as_saved(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """In the format to be saved, without the second copy of tied weights."""
        tied = getattr(self.model, "all_tied_weights_keys", None) or {}
        kept = {name: weight for name, weight in state_dict.items() if tied.get(name) not in state_dict}
        if self.saved_dtype is None:
            return kept
        # Beside the optimizer's state a device may have no room for a second copy.
        return {name: weight.to("cpu", self.saved_dtype) for name, weight in kept.items()}


def link(source: Path, target: Path, *patterns: str) -> None:
    """The same files under a second name: no byte is written again."""
    target.mkdir(parents=True, exist_ok=True)
    for path in (path for pattern in patterns for path in source.glob(pattern)):
        (target / path.name).unlink(missing_ok=True)
        (target / path.name).hardlink_to(path)


def measured_at(history: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """The newest values of the training, and those of a validation of this very step: of an earlier one they would
    be said of weights that they were not measured with."""
    new = latest([entry for entry in history if entry["step"] == step])
    known = {name: value for name, value in latest(history).items() if not name.startswith("eval_")} | new
    return {name: value for name, value in known.items() if name != "step"}


def latest(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The newest value of everything measured."""
    merged: dict[str, Any] = {}
    for entry in history:
        merged |= entry
    return {name: value for name, value in merged.items() if name != ELAPSED}


def set_member(path: Path, name: str, value: str) -> None:
    """In a configuration that was just saved, where there is one: the catalog's name of an adapter's base, because the
    path means nothing elsewhere; the format of the weights, because transformers writes that of the trained model."""
    if path.is_file():
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}, indent=2))
