"""What a finished training leaves in its output folder, and what its outcome says.

For LoRA the adapter (merged where the base was changed), for the other methods the whole model in the format of the
base's files; beside it the tokenizer with the chat template that was trained with, so that whoever serves the model
speaks to it as it was taught.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from trainer_worker.child import datasets, ends, pissa, tokenizer
from trainer_worker.child.context import Context
from trainer_worker.child.model import load_config, stored_dtype
from trainer_worker.child.report import measured_in
from trainer_worker.child.throughput import PEAKS, RATES
from trainer_worker.child.trainer import StageTrainer, latest, link

#: Below the scratch folder: what goes with the weights of every checkpoint.
WORDS = "words"
#: What says nothing of the whole training.
OF_A_STEP = ("learning_rate", "grad_norm", "num_tokens", *RATES, *PEAKS)


def output(trainer: StageTrainer, context: Context) -> None:
    """The best model where that was asked for, else the last. Every rank must come here."""
    context.emit("phase", "saving the model", phase="save")
    folder, best = Path(context.run["output_dir"]), trainer.best
    if best is not None and best.is_kept:
        context.emit("message", f"The model of step {best.state['step']} is the best: it is published", **best.state)
    if context.spec.tuning.finetuning_type == "lora" and context.run.get("makes") == "merged":
        if context.is_first:
            merged(trainer, context, folder)
    else:
        separate(trainer, context, folder)
    if context.is_first:
        dress(context, folder)
    trainer.accelerator.wait_for_everyone()


def checkpoint(trainer: StageTrainer, context: Context, folder: Path) -> None:
    """The model of this step as it would be published. Every rank must come here."""
    weights(trainer, context, folder)
    if context.is_first:
        if (start := context.scratch / pissa.FOLDER).exists():
            pissa.convert(folder, start)
        words = context.scratch / WORDS
        if not words.exists():
            dress(context, words)
        link(words, folder, "*")


def is_as_trained(trainer: StageTrainer, context: Context) -> bool:
    """Whether the published weights are to the bit those that the training goes on with."""
    if context.spec.tuning.finetuning_type == "lora":
        return not (context.scratch / pissa.FOLDER).exists()
    stored = stored_dtype(load_config(context))
    return all(weight.dtype == stored for weight in trainer.model.parameters())


def dress(context: Context, folder: Path) -> None:
    """What goes with the weights: tokenizer, chat template, where an answer ends."""
    words = tokenizer.load(context.run["model_path"], context.spec)
    words.save_pretrained(folder)
    ends.publish(folder, words, context)


def separate(trainer: StageTrainer, context: Context, folder: Path) -> None:
    """The adapter beside its base, or the whole model that was trained as such."""
    best = trainer.best
    if best is None or not best.is_kept:
        weights(trainer, context, folder)
    elif context.is_first:
        # Not their mode: what checkpoints hold is read-only.
        shutil.copytree(best.folder, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    if context.is_first and (start := context.scratch / pissa.FOLDER).exists():
        pissa.convert(folder, start)


def merged(trainer: StageTrainer, context: Context, folder: Path) -> None:
    """One model of adapter and base, where the base is another than the catalog's: the adapter alone fits no model."""
    best = trainer.best
    if best is not None and best.is_kept:
        set_peft_model_state_dict(trainer.model, load_file(best.folder / pissa.WEIGHTS))
    context.emit("message", "The adapter is merged: the model beside which it was trained is no other's")
    trainer.model = trainer.model.merge_and_unload()
    with as_stored(trainer, stored_dtype(load_config(context))):
        trainer._save(str(folder))


def weights(trainer: StageTrainer, context: Context, folder: Path) -> None:
    """Every rank must come here: under ZeRO-3 the weights are gathered from all."""
    whole = context.spec.tuning.finetuning_type != "lora"
    with as_stored(trainer, stored_dtype(load_config(context))) if whole else nullcontext():
        trainer.save_model(str(folder))


@contextmanager
def as_stored(trainer: StageTrainer, dtype: torch.dtype) -> Iterator[None]:
    """The whole model is saved in the format it came in: float32 was for training."""
    config = trainer.model.config
    before = config.use_cache, config.dtype
    config.use_cache, config.dtype, trainer.saved_dtype = True, dtype, dtype
    try:
        yield
    finally:
        config.use_cache, config.dtype, trainer.saved_dtype = *before, None


def result(trainer: StageTrainer, metrics: dict[str, float]) -> dict[str, Any]:
    last = measured_in(latest(trainer.state.log_history))
    measured = {name: value for name, value in last.items() if name not in OF_A_STEP}
    best_step = None
    if trainer.best is not None and trainer.best.is_kept:
        metrics, best_step = trainer.best.state["metrics"], trainer.best.state["step"]
    train_loss = mean_loss(trainer.state.log_history)
    return {
        "output": "output",
        "num_steps": trainer.state.global_step,
        "num_tokens": trainer.state.num_input_tokens_seen,
        "train_loss": train_loss,
        # Whose weights are published, where it is not the last.
        "best_step": best_step,
        "kernels": dict(trainer.kernels),
        "held_out": datasets.held_out(trainer.context),
        "startup_seconds": trainer.context.startup.seconds,
        "memory_by_rank": trainer.throughput.memory,
        "metrics": {
            **measured,
            **metrics,
            "train_loss": train_loss,
            **trainer.throughput.total.rates(),
            **trainer.throughput.peaks(),
            "epoch": trainer.state.epoch,
        },
    }


def mean_loss(history: list[dict[str, Any]]) -> float:
    """Over all steps, also those of earlier attempts, of which the Trainer's own knows nothing."""
    total, last = 0.0, 0
    for entry in history:
        if "loss" in entry:
            total, last = total + entry["loss"] * (entry["step"] - last), entry["step"]
    return total / max(last, 1)
