"""Optimizers that group the weights in their own way; None where the Trainer's own grouping is meant."""

from __future__ import annotations

from peft.optimizers import create_loraplus_optimizer
from torch.optim import Optimizer
from transformers import Trainer

from shared.spec import TrainSpec


def make(trainer: Trainer, spec: TrainSpec) -> Optimizer | None:
    if spec.lora.loraplus_lr_ratio is not None:
        return lora_plus(trainer, spec)
    return None


def lora_plus(trainer: Trainer, spec: TrainSpec) -> Optimizer:
    """LoRA+: the matrices B learn `loraplus_lr_ratio` times as fast as the matrices A (arXiv 2402.12354)."""
    chosen, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    optimizer: Optimizer = create_loraplus_optimizer(
        trainer.model,
        chosen,
        loraplus_lr_ratio=spec.lora.loraplus_lr_ratio,
        loraplus_lr_embedding=spec.lora.loraplus_lr_embedding,
        loraplus_weight_decay=trainer.args.weight_decay,
        **options,
    )
    # DeepSpeed flattens each group, which it cannot with an empty one.
    optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
    return optimizer
