"""From a spec to what the Trainer is made of: arguments, model with its trained weights, batches.

The order matters: the arguments come first, because they start the process group and tell transformers of ZeRO-3,
which splits the model while it is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments, set_seed

from shared.ladder import RECOMPUTE
from trainer_worker import deepspeed
from trainer_worker.child import architecture, doing, extensions, liger, memory, model, shortage, tokenizer, words
from trainer_worker.child.arguments import training_arguments
from trainer_worker.child.batch import Collator, Flat, Padded
from trainer_worker.child.context import Context
from trainer_worker.child.datasets import Parts
from trainer_worker.child.objective import Autocast
from trainer_worker.child.precision import FULL, PURE_BF16, Precision, decide

Before = Callable[[PreTrainedModel, Autocast], Any]


@dataclass(frozen=True, kw_only=True)
class Made:
    arguments: TrainingArguments
    model: torch.nn.Module
    collator: Collator
    precision: Precision
    #: Enters the format in which models compute.
    autocast: Autocast
    #: What `before` made.
    beside: Any = None
    #: What computes: of attention, and the fused kernels of Liger.
    kernels: Mapping[str, Any]


def make(context: Context, parts: Parts, *, padded: bool = False, before: Before | None = None) -> Made:
    """`padded` asks for one row a sample; `before` is shown the base before the method changes anything of it."""
    with doing.loading(context.run["base_name"]):
        config = model.load_config(context)
    config = architecture.adapt(config, context)
    has_deepspeed = deepspeed.is_wanted(context.spec)
    is_ample = memory.is_ample(config, context.num_processes)
    stored = model.stored_dtype(config)
    precision = decide(context.spec, stored, context.device, deepspeed=has_deepspeed, is_ample=is_ample)
    flash = model.flash_kernel(context.device, precision.compute or precision.frozen)
    layout = model.layout(context.spec, config, padded=padded, flash=flash)
    if model.lacks_kernel(context.spec):
        asked = context.spec.model.flash_attn
        text = f"flash_attn {asked} needs a package that is not installed here: {layout.kernel} computes the same"
        context.emit("message", text, "warning")
    arguments = training_arguments(context, start_engine(context, precision) if has_deepspeed else None)
    set_seed(context.spec.train.seed)
    with doing.loading(context.run["base_name"]):
        base = model.load(context, config, loaded_dtype(context, precision), layout.kernel)
    if context.spec.new_tokens.grows:
        path = context.run["model_path"]
        words.grow(base, tokenizer.load(path, context.spec), len(tokenizer.own(path, context.spec)), context)
    autocast = partial(precision.context, context.device)
    beside = before(base, autocast) if before is not None else None
    method = importlib.import_module(f"trainer_worker.child.methods.{context.spec.tuning.finetuning_type}")
    adapted = method.apply(base, context, precision)
    recompute(context, arguments, base, parts, precision)
    kernels = computing(context, config.model_type, layout.kernel)
    tell(context, adapted, precision, kernels, arguments.gradient_checkpointing)
    segments = layout.kernel == model.attention.NAME
    collator: Collator = Flat(segments=segments) if layout.is_flat else Padded(pad_id=config.pad_token_id or 0)
    return Made(
        arguments=arguments,
        model=adapted,
        collator=collator,
        precision=precision,
        autocast=autocast,
        beside=beside,
        kernels=kernels,
    )


def computing(context: Context, model_type: str, attention: str) -> dict[str, Any]:
    """The kernels by what they are for."""
    if not liger.is_wanted(context.spec, context.device):
        return {"attention": attention}
    return {"attention": attention, "liger": liger.parts(model_type)}


def start_engine(context: Context, precision: Precision) -> dict[str, Any]:
    """The engine's configuration; its process group is started here: ZeRO-3 asks for its size when it loads."""
    from deepspeed.comm import init_distributed  # takes seconds, and other trainings do without

    for lock in extensions.remove_stale_locks():
        context.emit("message", f"{lock.parent.name} was being compiled by a process that is gone", "warning")
    init_distributed(
        dist_backend="nccl" if context.device.type == "cuda" else "gloo",
        auto_mpi_discovery=False,
        timeout=timedelta(seconds=context.spec.train.ddp_timeout),
    )
    if replaced := deepspeed.replaced(context.spec):
        text = f"The DeepSpeed configuration says {', '.join(replaced)}, which the job's own parameters replace"
        context.emit("finding", text, "warning", field="deepspeed")
    return deepspeed.config(
        context.spec,
        num_processes=context.num_processes,
        device=context.device.type,
        bf16=precision.frozen == PURE_BF16.frozen,
    )


def loaded_dtype(context: Context, precision: Precision) -> torch.dtype:
    """A base beside an adapter is only read; one that is trained itself must not be rounded before it is."""
    return precision.frozen if context.spec.tuning.finetuning_type == "lora" else precision.trained


def recompute(context: Context, arguments: TrainingArguments, base: Any, parts: Parts, precision: Precision) -> None:
    """Turn gradient checkpointing on where the memory needs it; see memory.py for the rule."""
    given, config, has_bf16 = context.spec.model, base.config.get_text_config(), precision != FULL
    is_forced = bool(context.run.get("adjustments", {}).get(RECOMPUTE))
    wanted = is_forced or (
        not given.disable_gradient_checkpointing
        and memory.needs_checkpointing(
            context.spec,
            config,
            parts.most_tokens,
            parts.most_learned,
            context.num_processes,
            context.device,
            has_bf16=has_bf16,
        )
    )
    if context.is_first:
        known = shortage.known(context, config, parts, recomputes=wanted, has_bf16=has_bf16)
        context.attempt.leave_memory(**known)
    arguments.gradient_checkpointing = wanted
    if wanted:
        arguments.gradient_checkpointing_kwargs = {"use_reentrant": given.use_reentrant_gc}
        base.enable_input_require_grads()


def tell(
    context: Context, adapted: torch.nn.Module, precision: Precision, kernels: dict[str, Any], checkpointing: bool
) -> None:
    weights = [(getattr(w, "ds_numel", w.numel()), w.requires_grad) for w in adapted.parameters()]
    trained, total = sum(n for n, is_trained in weights if is_trained), sum(n for n, _ in weights)
    context.emit(
        "message",
        f"Training {trained:,} of {total:,} weights ({100 * trained / total:.2f} %)",
        num_trained=trained,
        num_weights=total,
        **kernels,
        gradient_checkpointing=checkpointing,
        **{name: str(value).removeprefix("torch.") for name, value in vars(precision).items() if value is not None},
    )
    if context.spec.model.enable_liger_kernel and not kernels.get("liger"):
        why = "needs a GPU" if context.device.type != "cuda" else "has no kernels for this architecture"
        context.emit("finding", f"enable_liger_kernel {why}: not used", "warning", field="enable_liger_kernel")
    if context.spec.loop.tf32 and context.device.type != "cuda":
        context.emit("finding", "tf32 needs an NVIDIA card: not used", "warning", field="tf32")
