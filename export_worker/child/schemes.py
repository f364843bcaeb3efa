"""What the compressed-tensors formats are, in that library's own words, and which layers of a model they quantize."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from transformers import PreTrainedModel

from export_worker.child.source import CannotExport

#: Layers that stay as they are, by name: the output head and the routers of mixtures of experts (few weights, much
#: damage), and the parts that see and hear, which no calibration text reaches.
UNTOUCHED = re.compile(
    r"(^|\.)(lm_head|mlp\.gate|router|visual|vision_tower|vision_model|audio_tower|multi_modal_projector)(\.|$)"
)
#: vLLM's fast kernels know these; larger groups are smaller files, so the largest that fits is taken.
GROUP_SIZES = (128, 64, 32)


def grouped(num_bits: int, group_size: int) -> QuantizationScheme:
    """Integer weights that share a scale by groups along the input; activations stay in 16 bits."""
    return QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(
            num_bits=num_bits, type="int", symmetric=True, strategy="group", group_size=group_size
        ),
    )


def per_channel(kind: str) -> QuantizationScheme:
    """8-bit weights ("int" or "float") with one scale per output, activations of the same kind quantized as they come,
    with one scale per token."""
    return QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(num_bits=8, type=kind, symmetric=True, strategy="channel"),
        input_activations=QuantizationArgs(num_bits=8, type=kind, symmetric=True, strategy="token", dynamic=True),
    )


def linears(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    """The layers that are quantized, by name. Raises CannotExport when there are none."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    chosen = {name: module for name, module in found.items() if not UNTOUCHED.search(name)}
    if not chosen:
        raise CannotExport(
            f"{type(model).__name__} has no linear layers of torch's own kind, which alone can be quantized to this "
            "format: export it merged",
            field="export_format",
        )
    return chosen


def left_out(model: PreTrainedModel, chosen: Collection[str]) -> list[str]:
    """Names of the linear layers that stay as they are."""
    return [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and name not in chosen]


def choose_group_size(layers: Iterable[torch.nn.Linear], format_name: str) -> int:
    """The largest group that divides the inputs of every layer to be quantized (576 is 64 * 9: 128 does not fit)."""
    widths = {layer.in_features for layer in layers}
    for size in GROUP_SIZES:
        if all(width % size == 0 for width in widths):
            return size
    raise CannotExport(
        f"{format_name} groups weights by {GROUP_SIZES[-1]} at least, which does not divide the model's layer widths "
        f"{sorted(widths)}",
        field="export_format",
    )
