"""Changes that peft's own layers make: DoRA, biases, stacked experts, PiSSA and OLoRA as they were trained, OFT ...

The adapter is put on the model's class without weights; a layer gets its tensors only while it merges, and gives them
back. So the result is peft's to the last bit, and in memory there is never more than one layer.
Not here: what adapter.py does faster itself (plain LoRA), and tensors that were trained in full.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PEFT_TYPE_TO_TUNER_MAPPING, PeftConfig, PeftModel
from peft.tuners.lora import LoraConfig, LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from safetensors.torch import load_file

from export_worker.child.bones import Bones
from export_worker.child.changes import BadAdapter, Change
from export_worker.child.renaming import Tensors

PREFIX = "base_model.model."
#: Initialisations that leave the base's weights as they are; the others (pissa, olora, ...) replace them by a residual.
PLAIN_INIT = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
NAME = "default"


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    """What one layer of peft's makes of the tensors of the layer below it."""

    #: Of the model, by the name within the layer.
    parts: Mapping[str, str]
    layer: BaseTunerLayer
    #: The adapter's own, by the name within the layer.
    factors: Mapping[str, torch.Tensor]
    #: Begins the adapter as its training did where that changed the base; None: it did not.
    begun: LoraConfig | None = None
    rows: int | None = None
    #: The product and what a layer makes of it are in float32.
    copies: int = 8
    alone: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.parts.values())

    @torch.no_grad()
    def apply(self, tensors: Tensors) -> None:
        base = self.layer.get_base_layer()
        try:
            base.load_state_dict({part: tensors[name] for part, name in self.parts.items()}, strict=False, assign=True)
            if self.begun is not None:
                # W becomes W - s * B0 @ A0, as when it was trained.
                self.layer.update_layer(NAME, self.layer.r[NAME], self.layer.lora_alpha[NAME], config=self.begun)
            self.layer.load_state_dict(self.factors, strict=False, assign=True)
        except RuntimeError as error:
            raise BadAdapter(
                f"the adapter's change of {self.names[0]} does not fit the base's tensor, it was trained on another "
                f"base: {error}",
                field="adapter_name_or_path",
            ) from None
        self.layer.merge()
        merged = dict(self.layer.get_base_layer().named_parameters())
        tensors |= {name: merged[part].data for part, name in self.parts.items()}
        self.layer.to("meta")


def load(folder: Path, config: Mapping[str, Any], bones: Bones, weight: float) -> tuple[list[Change], set[str]]:
    """The changes, and the names of those of the adapter's tensors that they are made of."""
    settings = PeftConfig.from_pretrained(str(folder))
    if settings.is_prompt_learning:
        text = f"{folder.name} is a prompt ({config.get('peft_type')}): it changes no weights, and cannot be merged"
        raise BadAdapter(text, field="adapter_name_or_path")
    saved = load_file(folder / "adapter_model.safetensors")
    wrapped = _put_on(bones, settings)
    found = {
        name.removeprefix(PREFIX): module
        for name, module in wrapped.named_modules()
        if isinstance(module, BaseTunerLayer) and not name.endswith(".token_adapter")
    }
    factors: dict[str, dict[str, torch.Tensor]] = {}
    rest = set()
    for name, tensor in _as_loaded(wrapped, settings, saved).items():
        owner, part = _owner(name.removeprefix(PREFIX), found)
        if owner is None or part.startswith("base_layer."):
            rest.add(name)
        else:
            # In half precision peft keeps none of an adapter's tensors.
            factors.setdefault(owner, {})[part] = tensor.float() if tensor.dtype.itemsize == 2 else tensor
    if strangers := sorted(name for name in rest if name not in saved or ".lora_" in name):
        first = strangers[0].removeprefix(PREFIX)
        text = f"{len(strangers)} tensors of the adapter have no place in the base, the first is {first}"
        raise BadAdapter(f"{text}: it was trained on another base", field="adapter_name_or_path")
    if weight != 1:
        _weigh([found[name] for name in factors], weight, folder)
    begun = _begun(settings)
    return [_change(name, found[name], parts, begun) for name, parts in factors.items()], set(saved) - rest


def _put_on(bones: Bones, settings: PeftConfig) -> PeftModel:
    """peft's layers on a copy of the class, all without weights."""
    plain = copy.copy(settings)
    plain.inference_mode = True
    if isinstance(plain, LoraConfig):
        plain.init_lora_weights = False
    with torch.device("meta"):
        return PeftModel(copy.deepcopy(bones.model), plain, low_cpu_mem_usage=True)


def _as_loaded(wrapped: PeftModel, settings: PeftConfig, saved: Tensors) -> Tensors:
    """The adapter's tensors by their names in the wrapped model, as peft itself renames and stacks them."""
    state = convert_peft_adapter_state_dict_for_transformers(
        model=wrapped, peft_config=wrapped.peft_config[NAME], adapter_state_dict=dict(saved), adapter_name=NAME
    )
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[settings.peft_type]
    return tuner._remap_adapter_state_dict_for_load(  # type: ignore[no-any-return]
        model=wrapped, config=wrapped.peft_config[NAME], adapter_name=NAME, state_dict=state
    )


def _owner(name: str, layers: Mapping[str, BaseTunerLayer]) -> tuple[str | None, str]:
    """The innermost layer that holds this tensor, and the tensor's name in it."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        if (owner := ".".join(parts[:length])) in layers:
            return owner, ".".join(parts[length:])
    return None, ""


def _begun(settings: PeftConfig) -> LoraConfig | None:
    """How the training began where that replaced the base's weights by a residual."""
    if not isinstance(settings, LoraConfig) or settings.init_lora_weights in PLAIN_INIT:
        return None
    return settings


def _change(name: str, layer: BaseTunerLayer, factors: Mapping[str, torch.Tensor], begun: LoraConfig | None) -> Change:
    return LayerChange(parts=_parts(name, layer), layer=layer, factors=factors, begun=begun)


def _parts(name: str, layer: BaseTunerLayer) -> dict[str, str]:
    """Tensors of the base that the layer changes: its name for them -> the model's."""
    # Wrappers of several parameters of one module lie within each other.
    while name.endswith(".base_layer"):
        name = name.removesuffix(".base_layer")
    if isinstance(layer, ParamWrapper):
        parts = [layer.parameter_name]
    elif isinstance(layer, LoraLayer) and not layer.lora_bias.get(NAME):
        parts = ["weight"]
    else:
        parts = [part for part, _ in layer.get_base_layer().named_parameters()]
    return {part: f"{name}.{part}" for part in parts}


def _weigh(layers: list[BaseTunerLayer], weight: float, folder: Path) -> None:
    for layer in layers:
        if not isinstance(layer, LoraLayer) or layer.use_dora.get(NAME):
            text = f"{folder.name} is no plain LoRA: half of what it does is not half of its numbers; give it weight 1"
            raise BadAdapter(text, field="adapter_weights")
        layer.set_scale(NAME, weight)
