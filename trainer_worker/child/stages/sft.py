"""Supervised fine-tuning: learn to answer from conversations, the loss on the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from shared.spec import TrainSpec
from trainer_worker.child import reference, training
from trainer_worker.child.context import Context
from trainer_worker.child.loss import nll
from trainer_worker.child.noise import Noise
from trainer_worker.child.objective import Batch, NextToken, learned_logits
from trainer_worker.child.setup import Made
from trainer_worker.child.token_losses import TokenLosses, dft, eaft, smoothed


def run(context: Context) -> dict[str, Any]:
    return training.run(context, objective)


def objective(context: Context, made: Made) -> NextToken:
    return NextToken(
        autocast=made.autocast,
        accuracy=context.spec.tuning.compute_accuracy,
        token_losses=token_losses(context.spec),
        noise=noise(context, made.model),
        router_weight=context.spec.architecture.moe_aux_loss_coef,
        anchor=anchor(context, made) if context.spec.loss.use_asft_loss else None,
        anchor_weight=context.spec.loss.asft_alpha,
    )


def token_losses(spec: TrainSpec) -> TokenLosses:
    given = spec.loss
    if given.use_dft_loss:
        return dft()
    if given.use_eaft_loss:
        return eaft(given.eaft_alpha)
    return smoothed(given.label_smoothing_factor) if given.label_smoothing_factor else nll


def noise(context: Context, model: Any) -> Noise | None:
    alpha = context.spec.loss.neftune_noise_alpha
    return None if alpha is None else Noise(model.get_input_embeddings(), alpha)


def anchor(context: Context, made: Made) -> Callable[[Batch], torch.Tensor]:
    """What the model predicted before the first step, for the same tokens."""
    held = reference.load(context, made)

    def logits(batch: Batch) -> torch.Tensor:
        with held.reading() as before:
            return learned_logits(before, batch, made.autocast)

    return logits
