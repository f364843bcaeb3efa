"""Pre-training: go on from plain texts; every token is learned."""

from __future__ import annotations

from typing import Any

from trainer_worker.child import training
from trainer_worker.child.context import Context
from trainer_worker.child.objective import NextToken
from trainer_worker.child.setup import Made


def run(context: Context) -> dict[str, Any]:
    return training.run(context, objective)


def objective(context: Context, made: Made) -> NextToken:
    return NextToken(
        autocast=made.autocast,
        accuracy=context.spec.tuning.compute_accuracy,
        router_weight=context.spec.architecture.moe_aux_loss_coef,
    )
