"""Freeze: some layers of the model are trained, the rest stays as it is."""

from __future__ import annotations

import re

from torch import nn
from transformers import PreTrainedModel

from shared.errors import InvalidSpec
from shared.spec import TrainSpec
from trainer_worker.child.blocks import added_blocks, check_added
from trainer_worker.child.context import Context
from trainer_worker.child.model import HEAD, check_names, gives_scores, set_frozen, set_trained
from trainer_worker.child.precision import Precision

#: `model.layers.7.mlp.up_proj.weight`: the layer's number, and what lies inside it.
LAYER = re.compile(r"\.(\d+)\.(.+)")


def apply(model: PreTrainedModel, context: Context, precision: Precision) -> nn.Module:
    spec = context.spec
    names = [name for name in spec.freeze.trainable_modules if name != "all"]
    check_names(model, names, "freeze_trainable_modules")
    check_names(model, spec.freeze.extra_modules, "freeze_extra_modules")
    layers = chosen_layers(spec, model.config.get_text_config().num_hidden_layers)
    if spec.freeze.use_llama_pro:
        check_added(model, layers, context)
    # A head that gives scores is new: without being trained it would stay random.
    extra = [*spec.freeze.extra_modules, *([HEAD] if gives_scores(spec) else [])]
    for name, weight in model.named_parameters():
        weight.requires_grad_(is_trained(name, layers, names, extra))
    set_trained(model, precision)
    set_frozen(model, precision)
    return model


def chosen_layers(spec: TrainSpec, num_layers: int) -> range:
    """The last layers, the first when the number is negative, or the added blocks. Raises InvalidSpec."""
    wanted = spec.freeze.trainable_layers
    if spec.freeze.use_llama_pro:
        return added_blocks(num_layers, wanted)
    if abs(wanted) > num_layers:
        raise InvalidSpec(f"is {wanted}: the model has {num_layers} layers", field="freeze_trainable_layers")
    return range(num_layers - wanted, num_layers) if wanted > 0 else range(-wanted)


def is_trained(name: str, layers: range, modules: list[str], extra: list[str]) -> bool:
    found = LAYER.search(name)
    if found is None:
        return any(module in name.split(".") for module in extra)
    inside = found[2].split(".")
    return int(found[1]) in layers and (not modules or any(module in inside for module in modules))
