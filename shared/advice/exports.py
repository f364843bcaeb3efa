"""What an export takes: room on the disk, memory of the host, seconds, and how large each format would be. Pure.

Sizes follow from the shape of the model; without it from the size of its files. Seconds are those of earlier exports
on this platform, by the size of their bases; before there are any, what two cores took, and so said to be rough.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared import formats, serving
from shared.advice.finding import Finding, Origin, info, warning
from shared.advice.memory import GIB
from shared.advice.shapes import Shape
from shared.formats import Format
from shared.requirements import Device
from shared.spec import ExportSpec
from shared.tongues import Text

#: Bytes of a weight that is not quantized.
HALF = 2
#: `infer_dtype` that keeps the base's number format.
AS_IT_IS = "auto"
DTYPE_BYTES = {"float32": 4, "float64": 8}
#: Scales of a group of weights and what belongs to them, bits a weight.
GROUP_BITS = 0.25
#: Of llama.cpp's mixes of types beyond their width, bits a weight: 8.5 of q8_0, 6.6 of q6_k, 4.8 of q4_k_m.
MIXED_BITS = {8: 0.5, 6: 0.6, 5: 0.7, 4: 0.85, 3: 0.9, 2: 1.3}
#: Tokenizer, model card and what else lies beside the weights, bytes.
BESIDE_BYTES = 8 * 1024**2
#: Interpreter and libraries of an export's process, bytes.
LIBRARY_BYTES = 1_000 * 1024**2
#: Models up to this size are compared in float32, bytes; see loading.py of the export's child.
FLOAT32_MAX_BYTES = 4 * 10**9
#: Of a model that is quantized there are its weights and the sums of the layer that is at work.
QUANTIZE_FACTOR = 1.3
#: What two cores took for a model of 135M parameters, a phase: seconds at once, and for each GB of the base.
ROUGH = {
    "merge": (6.0, 4.0),
    "verify": (4.0, 30.0),
    "quantize": (10.0, 150.0),
    "verify_quantized": (4.0, 30.0),
    "vllm_merged": (60.0, 60.0),
    "vllm_quantized": (60.0, 60.0),
    "publish": (0.5, 4.0),
}
#: Phases that take as long whatever comes of the export.
COMMON = frozenset({"merge", "verify", "vllm_merged", "publish"})
#: How much longer rounding is learned, in the steps of a CPU, than it is chosen.
LEARNING = 8
GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Past:
    """An export that succeeded here."""

    format: str
    base_bytes: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the worker that has most of it says of its machine."""

    worker_id: str
    #: On the volume of its attempts' folders.
    free_bytes: int
    #: On the volume of the storage; None: not a folder, or the same volume.
    storage_free_bytes: int | None = None
    host_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of an export beside its spec."""

    base: str
    #: Of the base's files; None: it is not here.
    base_bytes: int | None = None
    shape: Shape | None = None
    #: `infer_dtype` of the export.
    dtype: str = AS_IT_IS
    adapters: Sequence[str] = ()
    #: Datasets whose texts would calibrate.
    texts: Sequence[str] = ()
    past: Sequence[Past] = ()
    room: Room | None = None
    #: Devices of the machines that serve deployments now.
    serving: Sequence[Device] = ()
    #: Whether it holds a device of its worker.
    takes_device: bool = False


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes that an export needs at once."""

    scratch: int
    #: In the storage, where that is another volume.
    storage: int


def merged_bytes(known: Known) -> int | None:
    each = DTYPE_BYTES.get(known.dtype, HALF)
    if known.base_bytes is not None:
        return known.base_bytes * (each // HALF if known.dtype != AS_IT_IS else 1)
    if known.shape is None:
        return None
    each = each if known.dtype != AS_IT_IS else DTYPE_BYTES.get(known.shape.dtype, HALF)
    return known.shape.num_weights * each + BESIDE_BYTES


def output_bytes(known: Known, made: Format, bits: int | None) -> int | None:
    """Of the exported files; None where neither shape nor size of the model is known."""
    merged = merged_bytes(known)
    if bits is None or merged is None:
        return merged
    each = bits + (MIXED_BITS.get(bits, GROUP_BITS) if made.converted else GROUP_BITS)
    shape = known.shape
    if shape is None:
        return int(merged * each / 16)
    if made.converted:
        return int(shape.num_weights * each / 8) + BESIDE_BYTES
    coded = shape.num_linear + shape.num_expert
    return int(coded * each / 8) + (shape.num_weights - coded) * HALF + BESIDE_BYTES


def disk(merged: int, output: int, made: Format) -> Disk:
    """The merged model, and beside it the quantized one; what is published is linked where it can be."""
    # Learned weights are spelled out once more to be compared.
    scratch = merged * (2 if made.converted or made.learned else 1) + (output if made.bits else 0)
    return Disk(scratch=int(scratch * 1.05), storage=int(output * 1.05))


def memory(known: Known, made: Format, bits: int | None) -> dict[str, float] | None:
    """GiB of the host by phase. A model that is too large to be compared whole is read page by page: less is enough."""
    merged, shape = merged_bytes(known), known.shape
    if merged is None:
        return None
    tensor = shape.largest_module * HALF if shape else merged / 8
    verify = merged * 2 if merged <= FLOAT32_MAX_BYTES else merged
    parts = {"merge": 2 * tensor, "verify": verify}
    if made.bits:
        parts["quantize"] = _quantize_bytes(made, merged, output_bytes(known, made, bits) or merged, tensor)
    return {name: round((size + LIBRARY_BYTES) / GIB, 1) for name, size in parts.items()}


def _quantize_bytes(made: Format, merged: int, output: int, tensor: float) -> float:
    if made.streamed:
        return 2 * tensor
    return merged * QUANTIZE_FACTOR if made.calibrated else output + tensor


def seconds(known: Known, made: Format, *, asks_vllm: bool) -> dict[str, Any] | None:
    merged = merged_bytes(known)
    if merged is None:
        return None
    phases = [name for name in ROUGH if (made.bits or name in COMMON) and (asks_vllm or not name.startswith("vllm"))]
    by_phase, measured = {}, 0
    for name in phases:
        rates = [
            past.seconds[name] / max(past.base_bytes, 1)
            for past in known.past
            if name in past.seconds and (past.format == made.name or name in COMMON)
        ]
        measured += bool(rates)
        at_once, each = ROUGH[name]
        if name == "quantize" and made.learned:
            each *= LEARNING
        guess = statistics.median(rates) * merged if rates else at_once + each * merged / GB
        by_phase[name] = round(guess, 1)
    total = round(sum(by_phase.values()))
    return {"total": total, "by_phase": by_phase, "is_measured": measured == len(phases)}


def needs(spec: ExportSpec, known: Known) -> Disk | None:
    chosen, bits = formats.get(str(spec.export.export_format)), spec.export.export_quantization_bit
    merged, output = merged_bytes(known), output_bytes(known, chosen, bits)
    if merged is None or output is None:
        return None
    return disk(merged, output, chosen)


def make(spec: ExportSpec, known: Known, more: Sequence[Finding] = ()) -> dict[str, Any]:
    """The answer to a plan of an export; `more` are findings of the caller."""
    chosen, bits = formats.get(str(spec.export.export_format)), spec.export.export_quantization_bit
    return {
        "export": {
            "format": chosen.name,
            "bits": bits,
            "makes": chosen.makes,
            "base": known.base,
            "adapters": list(known.adapters),
            "calibration": list(known.texts) if chosen.calibrated else [],
            "takes_device": known.takes_device,
            "size_gib": _gib(output_bytes(known, chosen, bits)),
            "merged_gib": _gib(merged_bytes(known)),
        },
        "disk": told_disk(needs(spec, known), known.room),
        "memory": told_memory(memory(known, chosen, bits), known.room),
        "seconds": seconds(known, chosen, asks_vllm=asks_vllm(spec, known)),
        "formats": table(known, chosen, bits),
        "findings": [found.as_dict() for found in more],
    }


def asks_vllm(spec: ExportSpec, known: Known) -> bool:
    """Whether vLLM will load the files before they are published, as far as can be told here: an export without a
    device leaves the cards to others."""
    made, cards = formats.get(str(spec.export.export_format)), any(device.is_gpu for device in known.serving)
    served = here(made, spec.export.export_quantization_bit, known) is True
    return spec.parity.export_verify_vllm != "off" and served and (known.takes_device or not cards)


def table(known: Known, chosen: Format, chosen_bits: int | None) -> list[dict[str, Any]]:
    """Every format and width that the model could be exported in."""
    every = [(made, bits) for made in formats.TABLE.values() for bits in made.bits or (None,)]
    if (chosen, chosen_bits) not in every:  # a type without a width
        every.append((chosen, chosen_bits))
    return [
        {
            "format": made.name,
            "bits": bits,
            "doc": made.doc,
            "size_gib": _gib(output_bytes(known, made, bits)),
            "calibrated": made.calibrated,
            "vllm": {"where": str(serving.where(made.where(bits))), "here": here(made, bits, known)},
            "programs": list(made.programs),
        }
        for made, bits in every
    ]


def here(made: Format, bits: int | None, known: Known) -> bool | None:
    """Whether a machine that serves deployments can serve it; None: none reports itself."""
    served = made.where(bits)
    if served is None:
        return False
    return any(serving.is_served(served, device) for device in known.serving) if known.serving else None


def told_disk(needed: Disk | None, room: Room | None) -> dict[str, Any] | None:
    if needed is None:
        return None
    return {
        "scratch_gib": _gib(needed.scratch),
        "storage_gib": _gib(needed.storage),
        "free_gib": _gib(room.free_bytes) if room else None,
        "storage_free_gib": _gib(room.storage_free_bytes) if room else None,
        "worker": room.worker_id if room else None,
        "verdict": None if room is None else "does_not_fit" if lacks(needed, room) else "fits",
    }


def lacks(needed: Disk, room: Room) -> bool:
    return needed.scratch > room.free_bytes or needed.storage > (room.storage_free_bytes or needed.storage)


def told_memory(parts: Mapping[str, float] | None, room: Room | None) -> dict[str, Any] | None:
    if parts is None:
        return None
    there = room.host_memory_bytes if room else None
    verdict = None if there is None else "does_not_fit" if max(parts.values()) * GIB > there else "fits"
    return {"host_gib": dict(parts), "there_gib": _gib(there), "verdict": verdict}


def findings(spec: ExportSpec, known: Known) -> Iterator[Finding]:
    """What only its surroundings can tell of an export."""
    chosen, needed = formats.get(str(spec.export.export_format)), needs(spec, known)
    if needed is None:
        text = Text("Neither the size nor the shape of {base!r} is known: nothing can be computed.", base=known.base)
        advice = Text("Register the model, or post its config.json as config.")
        yield info("model_name_or_path", Origin.ESTIMATE, text, advice)
    elif known.room is not None and lacks(needed, known.room):
        text = Text(
            "The export needs {need} GiB of disk, and no export worker has so much: {worker} has {free} GiB free.",
            need=f"{needed.scratch / GIB:.1f}", worker=known.room.worker_id,
            free=f"{known.room.free_bytes / GIB:.1f}",
        )  # fmt: skip
        yield warning("export_format", Origin.ESTIMATE, text, Text("Make room there before it starts."))
    if chosen.calibrated and known.texts and spec.export.export_quantization_dataset is None:
        text = Text("Calibrated with the texts of the model's own training: {names}.", names=", ".join(known.texts))
        advice = Text("Name a dataset like what the model will be asked where that is another.")
        yield info("export_quantization_dataset", Origin.REFERENCE, text, advice)
    if chosen.calibrated and not known.texts:
        text = Text("No texts are known to calibrate with: weights are rounded to nearest, which costs quality.")
        advice = Text("Name a dataset like what the model will be asked.")
        yield warning("export_quantization_dataset", Origin.ESTIMATE, text, advice)
    bits = spec.export.export_quantization_bit
    if chosen.where(bits) is None and chosen.programs:
        text = Text("Deployments do not serve format {name}; {programs} load it.", name=chosen.name,
                    programs=", ".join(chosen.programs))  # fmt: skip
        yield info("export_format", Origin.REFERENCE, text)
    elif here(chosen, bits, known) is False:
        told = f"{chosen.name} ({bits} bits)" if bits in chosen.served_at else chosen.name
        text = Text("No machine here serves format {name}: vLLM does on {where}.", name=told,
                    where=serving.where(chosen.where(bits)))  # fmt: skip
        yield warning("export_format", Origin.REFERENCE, text)


def _gib(size: float | None) -> float | None:
    return None if size is None else round(size / GIB, 2)
