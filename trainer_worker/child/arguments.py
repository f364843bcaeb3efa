"""From a spec to transformers' TrainingArguments. Making them starts the process group.

Precision is not among them outside of DeepSpeed and float16: trainer.py enters autocast itself, which on a CPU
transformers does not allow together with everything that we need.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainingArguments

from shared.spec import TrainSpec
from trainer_worker.child import liger
from trainer_worker.child.context import Context

PLATEAU = "reduce_lr_on_plateau"


class Arguments(TrainingArguments):
    """With several processes on CPUs accelerate calls the device `cpu:0`, to which torch loads no optimizer."""

    @property
    def device(self) -> torch.device:
        device: torch.device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


def training_arguments(context: Context, deepspeed: dict[str, Any] | None) -> TrainingArguments:
    return Arguments(
        output_dir=str(context.checkpoints),
        use_cpu=context.device.type == "cpu",
        deepspeed=deepspeed,
        bf16=bool(deepspeed and deepspeed["bf16"]["enabled"]),
        fp16=context.spec.train.fp16,
        # Switched on by setup.py once the model's size is known.
        gradient_checkpointing=False,
        use_liger_kernel=liger.is_wanted(context.spec, context.device),
        liger_kernel_config=dict(liger.CONFIG),
        **optimization(context.spec),
        **reporting(context.spec),
        # Ours are no columns of a table, and batches keep their lists.
        remove_unused_columns=False,
        label_names=["labels"],
        average_tokens_across_devices=True,
        dataloader_num_workers=context.spec.train.dataloader_num_workers,
        dataloader_pin_memory=context.device.type == "cuda",
        train_sampling_strategy=sampling(context.spec),
        ddp_find_unused_parameters=False,
        ddp_timeout=context.spec.train.ddp_timeout,
        tf32=context.spec.loop.tf32 if context.device.type == "cuda" else None,
    )


def optimization(spec: TrainSpec) -> dict[str, Any]:
    train = spec.train
    return {
        "per_device_train_batch_size": train.per_device_train_batch_size,
        "per_device_eval_batch_size": train.per_device_eval_batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "learning_rate": train.learning_rate,
        "num_train_epochs": train.num_train_epochs,
        "max_steps": train.max_steps,
        "lr_scheduler_type": train.lr_scheduler_type,
        # A number below 1 is a share of all steps.
        "warmup_steps": train.warmup_ratio or train.warmup_steps,
        "weight_decay": train.weight_decay,
        "adam_beta1": train.adam_beta1,
        "adam_beta2": train.adam_beta2,
        "adam_epsilon": train.adam_epsilon,
        "max_grad_norm": train.max_grad_norm,
        "optim": train.optim,
        "optim_args": spec.optimizer.optim_args,
        # What reduce_lr_on_plateau looks at; the best model is chosen by best.py.
        "metric_for_best_model": spec.loop.best_metric if train.lr_scheduler_type == PLATEAU else None,
        "greater_is_better": spec.loop.best_is_greatest,
        "seed": train.seed,
        "data_seed": spec.loop.data_seed,
        "full_determinism": spec.loop.full_determinism,
    }


def schedule_options(spec: TrainSpec, num_warmup: int, num_steps: int) -> dict[str, Any]:
    """What is not given is the schedule's own default. Of warmup-stable-decay the phases follow from the steps: a third
    of what is left after the warmup is stable, as in LF."""
    given = dict(spec.optimizer.lr_scheduler_kwargs or {})
    if spec.train.lr_scheduler_type != "warmup_stable_decay":
        return given
    rest = max(0, num_steps - num_warmup)
    decay = given.get("num_decay_steps", rest - min(rest, given.get("num_stable_steps", rest // 3)))
    return {**given, "num_decay_steps": decay, "num_stable_steps": given.get("num_stable_steps", max(0, rest - decay))}


def reporting(spec: TrainSpec) -> dict[str, Any]:
    train = spec.train
    return {
        "logging_strategy": spec.loop.logging_strategy,
        "logging_steps": train.logging_steps,
        "logging_first_step": train.logging_first_step,
        # A loss that is no number must be seen, not smoothed over.
        "logging_nan_inf_filter": False,
        "save_strategy": train.save_strategy,
        "save_steps": train.save_steps,
        "save_only_model": train.save_only_model,
        "eval_strategy": train.eval_strategy,
        "eval_steps": train.eval_steps,
        "eval_on_start": spec.loop.eval_on_start,
        "eval_delay": spec.loop.eval_delay,
        "report_to": "none",
        "disable_tqdm": True,
    }


def sampling(spec: TrainSpec) -> str:
    """By length only where it is asked for: LF's order is random, and samples that lie one after another in a row pay
    for no padding, whatever their lengths. Where an architecture wants rows of their own, grouping saves most of it."""
    if spec.data.disable_shuffling:
        return "sequential"
    return "group_by_length" if spec.train.group_by_length else spec.loop.train_sampling_strategy
