"""How the weights are changed step by step: batch, learning rate, schedule, precision, saving, validating."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from shared.fields import CheckpointName, StepsOrShare
from shared.param import param
from shared.rules import rule
from shared.spec.schedules import OPTIMIZERS, SCHEDULES, optimizer_complaint

WHEN = ("no", "steps", "epoch")


@dataclass(frozen=True, kw_only=True)
class Train:
    per_device_train_batch_size: int = param(
        8,
        "Samples per device and step; larger is steadier and costs memory.",
        minimum=1,
        maximum=65_536,
        source="HF",
        advice="Start with 1.",
        picture="Exercises done before the answers are checked: more are fairer and need a larger desk.",
    )
    gradient_accumulation_steps: int = param(
        1,
        "Steps whose gradients are added before the weights change; trades time for memory.",
        minimum=1,
        maximum=65_536,
        source="HF",
        picture="A small basket filled several times before going to the till once.",
    )
    learning_rate: float = param(
        5e-5,
        "How far each step goes; too big diverges, too small stalls.",
        minimum=0.0,
        exclusive_minimum=True,
        maximum=1.0,
        source="HF",
        advice="LoRA: 5e-5 is safe, 1e-4 usual; full: 5e-6 to 1e-5.",
        picture="The accelerator: pressed too hard you leave the road, too lightly you never arrive.",
    )
    num_train_epochs: float = param(
        3.0,
        "How often the data is read; too few under-fits, too many over-fits.",
        minimum=0.0,
        exclusive_minimum=True,
        maximum=10_000.0,
        source="HF",
        advice="Start with 3.",
        picture="How often the textbook is read: once is forgotten, ten times is learned by heart.",
    )
    max_steps: int = param(-1, "Steps to train, instead of epochs; -1: by epochs.", minimum=-1, source="HF")
    lr_scheduler_type: str = param(
        "linear",
        "Shape of the learning rate over the steps.",
        choices=tuple(SCHEDULES),
        source="HF",
        advice="cosine.",
        picture="How the foot leaves the accelerator: fast on the open road, slower the nearer the parking space is.",
    )
    warmup_ratio: float = param(
        0.0,
        "Share of all steps in which the learning rate rises.",
        minimum=0.0,
        maximum=1.0,
        source="HF",
        advice="0.05 to 0.1.",
        picture="Warming up before the run: the first part of the way is taken slowly.",
    )
    warmup_steps: int = param(
        0,
        "Steps in which the learning rate rises; a number below 1 is read as a share of all steps.",
        field_class=StepsOrShare,
        minimum=0,
        source="HF",
        advice="5 to 10 % of all steps.",
        picture="Warming up before the run: the first steps are taken slowly.",
    )
    weight_decay: float = param(
        0.0,
        "Pull of the weights to zero.",
        minimum=0.0,
        maximum=1.0,
        source="HF",
        picture="A rubber band that pulls every weight back to the middle, so that none runs away.",
    )
    adam_beta1: float = param(
        0.9, "Decay of Adam's mean.", minimum=0.0, maximum=1.0, exclusive_maximum=True, source="HF"
    )
    adam_beta2: float = param(
        0.999, "Decay of Adam's variance.", minimum=0.0, maximum=1.0, exclusive_maximum=True, source="HF"
    )
    adam_epsilon: float = param(
        1e-8, "Adam's guard against division by zero.", minimum=0.0, exclusive_minimum=True, maximum=1.0, source="HF"
    )
    max_grad_norm: float = param(
        1.0,
        "Longest gradient; longer ones are cut. 0: never.",
        minimum=0.0,
        source="HF",
        picture="A speed limit: no single step may be wilder than this.",
    )
    optim: str = param(
        "adamw_torch",
        "Optimizer.",
        choices=tuple(OPTIMIZERS),
        check=optimizer_complaint,
        source="HF",
        advice="adamw_torch; adamw_8bit where its memory does not suffice.",
    )
    seed: int = param(
        42,
        "Seed of every random choice.",
        minimum=0,
        maximum=2**32 - 1,
        source="HF",
        picture="How the cards are shuffled: the same seed deals the same hand again.",
    )
    bf16: bool = param(False, "Compute in bfloat16.", source="HF", advice="true on cards since Ampere and recent CPUs.")
    fp16: bool = param(False, "Compute in float16 with loss scaling (older cards).", source="HF")
    logging_steps: int = param(
        500, "Steps between two metric events.", minimum=1, source="HF", advice="10 or less for short runs."
    )
    logging_first_step: bool = param(False, "Also log the first step.", source="HF")
    save_strategy: str = param("steps", "When a checkpoint is written.", choices=WHEN, source="HF")
    save_steps: float = param(
        500,
        "Steps between two checkpoints; a number below 1 is a share of all steps.",
        type=int,
        field_class=StepsOrShare,
        minimum=0,
        exclusive_minimum=True,
        source="HF",
        picture="How often the game is saved.",
    )
    save_total_limit: int | None = param(
        None,
        "Checkpoints kept of a job, the best and what is in use besides; older ones are deleted. Left out: all.",
        type=int,
        minimum=1,
        source="HF",
    )
    save_only_model: bool = param(
        False,
        "Leave optimizer and schedule out of checkpoints: smaller, and nothing resumes from them. A pause still writes "
        "all.",
        source="HF",
    )
    eval_strategy: str = param(
        "no",
        "When to validate. Left out while val_size or eval_dataset is given: `steps`.",
        choices=WHEN,
        source="HF",
        aliases=("evaluation_strategy",),
    )
    eval_steps: int | None = param(
        None,
        "Steps between two validations. Left out: logging_steps.",
        type=int,
        minimum=1,
        source="HF",
        picture="How often there is a test during the term.",
    )
    per_device_eval_batch_size: int = param(
        8, "Samples per device when validating.", minimum=1, maximum=65_536, source="HF"
    )
    dataloader_num_workers: int = param(0, "Processes that load batches.", minimum=0, maximum=1024, source="HF")
    group_by_length: bool = param(False, "Put samples of similar length into one batch.", source="HF")
    ddp_timeout: int = param(1800, "How long ranks wait for each other.", minimum=1, unit="seconds", source="HF")
    resume_from_checkpoint: str | None = param(
        None,
        "Go on where another job was, with its optimizer: a checkpoint's name or id, a job, or an output_dir with or "
        "without /checkpoint-<step>; true: this output_dir. A job resumes from its own checkpoints by itself.",
        type=str,
        field_class=CheckpointName,
        source="HF",
        advice="With a larger num_train_epochs, to train on for longer.",
    )

    @rule("fp16")
    def one_precision(self) -> str | None:
        return "cannot be true together with bf16: choose one" if self.bf16 and self.fp16 else None

    @rule("max_steps", code="out_of_range")
    def some_step(self) -> str | None:
        return "is 0: must be 1 or more, or -1 to train by epochs" if self.max_steps == 0 else None

    @rule("warmup_ratio")
    def one_warmup(self) -> str | None:
        both = self.warmup_ratio > 0 and self.warmup_steps > 0
        return "cannot be given together with warmup_steps: choose one" if both else None

    def save_interval(self, total_steps: int) -> int:
        """Steps between two checkpoints."""
        return math.ceil(self.save_steps * total_steps) if self.save_steps < 1 else int(self.save_steps)

    def resolved(self, *, validates: bool) -> Train:
        """A share of steps becomes warmup_ratio; with something to validate on, eval_strategy is not `no`."""
        share = 0 < self.warmup_steps < 1
        return replace(
            self,
            warmup_ratio=float(self.warmup_steps) if share else self.warmup_ratio,
            warmup_steps=0 if share else int(self.warmup_steps),
            eval_strategy="steps" if validates and self.eval_strategy == "no" else self.eval_strategy,
            eval_steps=self.eval_steps or self.logging_steps,
        )
