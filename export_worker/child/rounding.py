"""Weights rounded to nearest, tensor by tensor from file to file: no calibration, and no more memory than one tensor.

What is written is what llmcompressor writes for the same scheme; a test compares the two.
Not here: formats whose weights are chosen with texts (calibrating.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, QuantizationStatus
from compressed_tensors.quantization.utils import calculate_qparams

from export_worker.child import schemes, shards
from export_worker.child.merge import GB
from export_worker.child.quantizers import Quantization
from export_worker.child.shards import Entry
from export_worker.child.source import CannotExport

WEIGHT = "weight"
#: Safetensors' words for torch's types.
WORDS = {dtype: word for word, dtype in shards.DTYPES.items()}
FLOATS = frozenset({torch.bfloat16, torch.float16, torch.float32})


@dataclass(frozen=True, kw_only=True)
class Rounding:
    scheme: QuantizationScheme
    #: Of the compressed-tensors library, e.g. "float-quantized".
    format: str
    #: Modules whose weights are rounded, by name.
    layers: frozenset[str]
    #: Linear layers that stay as they are.
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, work: Quantization, scheme: QuantizationScheme) -> Rounding:
        model = work.source.empty()
        layers = frozenset(schemes.linears(model))
        return cls(
            scheme=scheme,
            format=infer_module_format(torch.nn.Linear, scheme).value,
            layers=layers | experts(work.model, frozenset(model.state_dict())),
            left_out=tuple(schemes.left_out(model, layers)),
        )

    def takes(self, entry: Entry) -> bool:
        module, _, part = entry.name.rpartition(".")
        return part == WEIGHT and module in self.layers and shards.DTYPES[entry.dtype] in FLOATS

    def compress(self, entry: Entry, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors that take the place of one; of a weight on the meta device, their shapes and types."""
        if not self.takes(entry):
            return {entry.name: weight}
        module = entry.name.rpartition(".")[0]
        parts = {WEIGHT: weight, "weight_scale": scales(weight, self.scheme)}
        made = BaseCompressor.get_value_from_registry(self.format).compress(parts, self.scheme)
        return {f"{module}.{name}": tensor for name, tensor in made.items()}


def experts(folder: Path, known: frozenset[str]) -> frozenset[str]:
    """Experts of a mixture that the files hold one by one and the model's class, which fuses them, does not name."""
    found = [entry for entry in shards.list_entries(folder).values() if entry.name not in known]
    if fused := next((entry.name for entry in found if ".experts." in entry.name and len(entry.shape) == 3), None):
        raise CannotExport(
            f"{fused} holds all experts of a layer in one tensor, which cannot be rounded to this format"
        )
    chosen = (entry.name.rpartition(".")[0] for entry in found if ".experts." in entry.name and len(entry.shape) == 2)
    return frozenset(chosen)


def scales(weight: torch.Tensor, scheme: QuantizationScheme) -> torch.Tensor:
    """Of shape (out, groups), one group where a channel is one."""
    args = scheme.weights
    out, width = weight.shape
    groups = weight.reshape(out, -1, args.group_size or width)  # (out, groups, group)
    scale, _ = calculate_qparams(groups.amin(dim=-1), groups.amax(dim=-1), args)
    return scale


def write(work: Quantization, scheme: QuantizationScheme) -> None:
    """Weights and config.json into the empty folder `work.out`."""
    rounding = Rounding.of(work, scheme)
    entries = list(shards.list_entries(work.model).values())
    made = [made for entry in entries for made in outputs(rounding, entry)]
    places = shards.lay_out(made, work.out, int(work.max_shard_gb * GB))
    total, done = sum(entry.num_bytes for entry in entries), 0
    for entry in entries:
        for name, tensor in rounding.compress(entry, shards.read(entry)).items():
            shards.write(tensor, places[name])
        done += entry.num_bytes
        work.watch.progress(done, total, "bytes")
    write_config(work, rounding)


def outputs(rounding: Rounding, entry: Entry) -> Iterator[Entry]:
    """What will be written for a tensor; nothing is read."""
    if not rounding.takes(entry):
        yield entry
        return
    shape = torch.empty(entry.shape, dtype=shards.DTYPES[entry.dtype], device="meta")
    for name, tensor in rounding.compress(entry, shape).items():
        yield replace(entry, name=name, dtype=WORDS[tensor.dtype], shape=tuple(tensor.shape), num_bytes=tensor.nbytes)


def write_config(work: Quantization, rounding: Rounding) -> None:
    """As compressed-tensors reads it: in config.json of the model."""
    told = QuantizationConfig(
        config_groups={"group_0": rounding.scheme.model_copy(update={"format": rounding.format})},
        format=rounding.format,
        ignore=list(rounding.left_out),
        quantization_status=QuantizationStatus.COMPRESSED,
    ).model_dump(mode="json")
    config = json.loads((work.model / "config.json").read_text())
    config["quantization_config"] = {"version": version("compressed-tensors"), **told}
    (work.out / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
