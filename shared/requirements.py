"""What a job asks of the machine that runs it (`requires`), and whether a worker's devices meet it.

Kinds of cards are compared word by word, however they are written: `A100` means every A100, `A100-80GB` and `NVIDIA
A100 80GB` only those of that size, `H100-PCIE` only that board. Nothing here asks a ledger or a machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import Any

from shared import schema
from shared.errors import InvalidSpec
from shared.fields import Message, shown
from shared.param import param
from shared.records import Worker
from shared.rules import rule
from shared.tongues import Text, listed

CPU = "cpu"
#: How many devices a machine without GPUs says it has: processes on a CPU are not bounded by devices.
CPU_COUNT = 64
CUDA = "cuda"
#: Where the fields lie in a request.
FIELD = "requires"
#: Words of a card's name that tell no kind from another.
NOISE = frozenset({"NVIDIA", "GEFORCE", "TESLA", "GPU"})
#: Likewise: sockets and memories, e.g. SXM4, HBM3e.
_PART = re.compile(r"(SXM|HBM)\d?E?")
#: Sizes that cards are sold with, GB; a program sees up to a tenth less, and names need not say any.
SIZES = (4, 6, 8, 10, 11, 12, 16, 20, 22, 24, 32, 40, 48, 64, 80, 94, 96, 128, 141, 144, 180, 192, 288)
MAX_KIND_CHARS, MAX_LABELS, MAX_LABEL_CHARS = 60, 16, 64
#: A name of more words is told by its first ones.
MAX_WORDS = 8
_WORD = re.compile(r"[A-Z0-9.]+")
#: `RTX4090` is `RTX 4090`.
_JOINED = re.compile(r"(RTX|GTX)(\d+)")


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device of a worker."""

    #: UUID of a GPU, or `cpu`.
    id: str
    #: As its driver says it, e.g. `NVIDIA A100-SXM4-80GB`; None: nobody told.
    kind: str | None = None
    memory_gib: float | None = None
    #: Compute capability of an NVIDIA card, e.g. 9.0; None: nobody told.
    capability: float | None = None

    @property
    def is_gpu(self) -> bool:
        return self.id != CPU

    @property
    def size_gib(self) -> float:
        """Its memory as it is asked for: what the card is sold with, of which programs see up to a tenth less."""
        return max([self.memory_gib or 0.0, *(size for size in SIZES if _is_sold_as(self.memory_gib, size))])


def _kind(value: str) -> Message | None:
    if len(value) > MAX_KIND_CHARS or not words(value):
        return Message("is {value}: a kind of card, e.g. A100 or H100-80GB", value=shown(value))
    return None


def _labels(value: Sequence[str]) -> Message | None:
    if len(value) > MAX_LABELS or any(not 0 < len(label) <= MAX_LABEL_CHARS for label in value):
        text = "is {value}: at most {most} labels of 1 to {chars} characters"
        return Message(text, value=shown(value), most=MAX_LABELS, chars=MAX_LABEL_CHARS)
    return None


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """`requires` of a job."""

    num_devices: int | None = param(
        None, "Devices of one machine; of a training the same as num_processes.", type=int, minimum=1, maximum=1024,
        source="ours",
    )  # fmt: skip
    gpu_kind: str | None = param(None, "Kind of card, e.g. A100 or H100-80GB.", type=str, source="ours", check=_kind)
    min_gpu_memory_gib: float | None = param(
        None,
        "Memory that each card is sold with at least: 80 for an A100-80GB.",
        type=float,
        minimum=1.0,
        maximum=4096.0,
        source="ours",
        unit="GiB",
    )
    accelerator: str = param(
        "any", "Whether GPUs are needed, or a machine without any.", choices=("any", CUDA, CPU), source="ours"
    )
    labels: list[str] = param([], "What the worker is labelled with, all of them.", source="ours", check=_labels)

    @rule("accelerator")
    def a_cpu_is_no_card(self) -> str | None:
        if self.accelerator == CPU and (self.gpu_kind is not None or self.min_gpu_memory_gib is not None):
            return "is 'cpu' beside a kind or memory of cards: leave one of them out"
        return None

    def resolved(self) -> Requirements:
        return self

    def as_dict(self) -> dict[str, Any]:
        """What was asked for, without what was not; cards of a kind are GPUs."""
        asks = self.gpu_kind is not None or self.min_gpu_memory_gib is not None
        accelerator = CUDA if asks else None if self.accelerator == "any" else self.accelerator
        told = {
            "num_devices": self.num_devices,
            "gpu_kind": self.gpu_kind,
            "min_gpu_memory_gib": self.min_gpu_memory_gib,
            "accelerator": accelerator,
            "labels": self.labels or None,
        }
        return {name: value for name, value in told.items() if value is not None}


def load(given: Mapping[str, Any]) -> Requirements:
    """Raises InvalidSpec, its fields below `requires`."""
    try:
        return schema.load(Requirements, given)
    except InvalidSpec as error:
        below = [replace(made, field=f"{FIELD}.{made.field}") for made in error.complaints]
        raise schema.refusal(below) from error


def words(kind: str) -> frozenset[str]:
    """What tells this kind of card from others."""
    spaced = _JOINED.sub(r"\1 \2", kind.upper())
    return frozenset(word for word in _WORD.findall(spaced) if word not in NOISE and not _PART.fullmatch(word))


def key(kind: str) -> str:
    """The same text for every way to write a kind: its words, sorted."""
    return "-".join(sorted(words(kind)))


def keys(device: Device) -> frozenset[str]:
    """The key of every kind that the device is of: all choices of its words."""
    found = sorted(_words_of(device))[:MAX_WORDS]
    chosen = chain.from_iterable(combinations(found, count) for count in range(1, len(found) + 1))
    return frozenset("-".join(some) for some in chosen)


def _words_of(device: Device) -> frozenset[str]:
    sizes = {f"{size}GB" for size in SIZES if _is_sold_as(device.memory_gib, size)}
    return words(device.kind or "") | sizes


def of_worker(worker: Worker) -> list[Device]:
    """Its devices, with kind and memory as far as it tells them."""
    told = {device["id"]: device for device in worker.machine.get("devices", ())}
    fields = ("kind", "memory_gib", "capability")
    known = [(name, told.get(name, {})) for name in worker.devices]
    return [Device(id=name, **{field: one.get(field) for field in fields}) for name, one in known]


def _is_sold_as(memory_gib: float | None, size: int) -> bool:
    return 0.9 * size <= (memory_gib or 0.0) <= 1.01 * size


def fitting(requires: Mapping[str, Any], devices: Iterable[Device]) -> list[Device]:
    """The devices that the job may have, by kind and memory."""
    return [device for device in devices if _is_fit(requires, device)]


def _is_fit(requires: Mapping[str, Any], device: Device) -> bool:
    kind, least = requires.get("gpu_kind"), requires.get("min_gpu_memory_gib")
    accelerator = requires.get("accelerator")
    if accelerator == CPU or not device.is_gpu:
        return not device.is_gpu and accelerator != CUDA
    return (kind is None or words(kind) <= _words_of(device)) and device.size_gib >= (least or 0.0)


def count(devices: Iterable[Device]) -> int:
    """How many processes find a device of their own."""
    return sum(1 if device.is_gpu else CPU_COUNT for device in devices)


def num_devices(requires: Mapping[str, Any]) -> int:
    return int(requires.get("num_devices") or 0)


def are_met(requires: Mapping[str, Any], devices: Sequence[Device]) -> bool:
    """Whether enough of the devices are fit."""
    return num_devices(requires) <= (count(fitting(requires, devices)) if num_devices(requires) else 0)


def described(requires: Mapping[str, Any]) -> Text:
    """What is asked for, in words: `4 device(s), kind A100, 40 GiB each, labelled eu`."""
    parts = [Text("{count} device(s)", count=num_devices(requires))]
    if kind := requires.get("gpu_kind"):
        parts.append(Text("kind {kind}", kind=kind))
    elif accelerator := requires.get("accelerator"):
        parts.append(Text("accelerator {accelerator}", accelerator=accelerator))
    if least := requires.get("min_gpu_memory_gib"):
        parts.append(Text("{least:g} GiB each", least=least))
    if labels := requires.get("labels"):
        parts.append(Text("labelled {labels}", labels=", ".join(labels)))
    return listed(parts)


def counted(devices: Sequence[Device]) -> str:
    """Devices in words: `4 x NVIDIA A100-SXM4-80GB (79.2 GiB)`."""
    kinds = [_name(device) for device in devices]
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)) or "no device"


def _name(device: Device) -> str:
    if not device.is_gpu:
        return CPU
    return f"{device.kind or 'GPU'}" + (f" ({device.memory_gib:g} GiB)" if device.memory_gib else "")
