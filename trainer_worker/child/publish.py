"""What a finished training leaves in its output folder, and what its outcome says.

For LoRA the adapter, for the other methods the whole model in the format of the base's files; beside it the tokenizer
with the chat template that was trained with, so that whoever serves the model speaks to it as it was taught.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import TrainOutput

from trainer_worker.child import pissa, tokenizer
from trainer_worker.child.context import Context
from trainer_worker.child.model import load_config, stored_dtype
from trainer_worker.child.trainer import StageTrainer, latest


def output(trainer: StageTrainer, context: Context) -> None:
    """Every rank must come here: under ZeRO-3 the weights are gathered from all."""
    context.emit("phase", "saving the model", phase="save")
    if context.spec.tuning.finetuning_type != "lora":
        as_stored(trainer, stored_dtype(load_config(context)))
    trainer.save_model(context.run["output_dir"])
    if context.is_first:
        if (start := context.scratch / pissa.FOLDER).exists():
            pissa.convert(Path(context.run["output_dir"]), start)
        tokenizer.load(context.run["model_path"], context.spec).save_pretrained(context.run["output_dir"])
    trainer.accelerator.wait_for_everyone()


def as_stored(trainer: StageTrainer, dtype: torch.dtype) -> None:
    """The whole model in the format it came in: float32 was for training."""
    trainer.model.config.use_cache = True
    trainer.model.config.dtype = dtype
    if trainer.is_deepspeed_enabled:
        trainer.saved_dtype = dtype
    else:
        trainer.model.to(dtype)


def result(trainer: StageTrainer, outcome: TrainOutput, metrics: dict[str, float]) -> dict[str, Any]:
    speed = trainer.num_tokens / trainer.num_seconds if trainer.num_seconds else 0.0
    last = latest(trainer.state.log_history)
    measured = {
        name: last[name] for name in ("loss", "reward", "objective/kl", "eval_loss", "eval_accuracy") if name in last
    }
    return {
        "output": "output",
        "num_steps": trainer.state.global_step,
        "num_tokens": trainer.state.num_input_tokens_seen,
        "train_loss": outcome.training_loss,
        "metrics": {
            **measured,
            **metrics,
            "train_loss": outcome.training_loss,
            "tokens_per_second": speed,
            "epoch": trainer.state.epoch,
        },
    }
