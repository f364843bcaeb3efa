"""Optimizers that group the weights in their own way; None where the Trainer's own grouping is meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer
from torch.optim import AdamW, Muon, Optimizer
from transformers import Trainer

from shared.spec import TrainSpec


def make(trainer: Trainer, spec: TrainSpec) -> Optimizer | None:
    if spec.optimizer.use_muon:
        return muon(trainer)
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


def muon(trainer: Trainer) -> Optimizer:
    """Muon for matrices inside the layers, AdamW for embeddings, output, norms and biases.

    Muon's step is a matrix with all singular values near 1, scaled so that its root mean square is 0.2 learning rates,
    AdamW's usual one: both take the same rate (arXiv 2502.16982, equation 4).
    """
    args, decayed = trainer.args, set(trainer.get_decay_parameter_names(trainer.model))
    named = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    outside = _outside_of_layers(trainer.model)
    matrices = [weight for weight in named.values() if weight.ndim == 2 and id(weight) not in outside]
    inside = {id(weight) for weight in matrices}
    rest = {name: weight for name, weight in named.items() if id(weight) not in inside}
    groups = [
        {"params": [weight for name, weight in rest.items() if name in decayed], "weight_decay": args.weight_decay},
        {"params": [weight for name, weight in rest.items() if name not in decayed], "weight_decay": 0.0},
    ]
    parts: list[Optimizer] = []
    if matrices:
        rate = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
        parts.append(Muon(matrices, adjust_lr_fn="match_rms_adamw", **rate))
    if rest:
        betas = (args.adam_beta1, args.adam_beta2)
        used = [group for group in groups if group["params"]]
        parts.append(AdamW(used, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon))
    return Joined(parts)


def _outside_of_layers(model: Any) -> set[int]:
    """Weights that look words up or choose among them: their rows are words, not directions."""
    looked_up = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    head = model.get_output_embeddings()
    return {id(w) for module in [*looked_up, *([head] if head is not None else [])] for w in module.parameters()}


class Joined(Optimizer):
    """Several optimizers as one. Its groups are theirs, so that a schedule reaches them all."""

    def __init__(self, parts: list[Optimizer]):
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], dict(parts[0].defaults))
        self._join()

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._join()

    def _join(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]
