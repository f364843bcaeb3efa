"""Full: every weight is trained."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from trainer_worker.child.context import Context
from trainer_worker.child.model import set_trained
from trainer_worker.child.precision import Precision


def apply(model: PreTrainedModel, context: Context, precision: Precision) -> nn.Module:
    for weight in model.parameters():
        weight.requires_grad_(True)
    set_trained(model, precision)
    return model
