"""Supervised fine-tuning: learn to answer from conversations, the loss on the answers."""

from __future__ import annotations

from typing import Any

from shared.spec import TrainSpec
from trainer_worker.child import training
from trainer_worker.child.context import Context
from trainer_worker.child.loss import nll
from trainer_worker.child.noise import Noise
from trainer_worker.child.objective import NextToken
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
