"""Where vLLM answers from a format's files: asked at the door of a deployment, and again where its replica starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shared import engines, formats
from shared.declarations import ANY_NEWER, Format, Served
from shared.requirements import Device
from shared.tongues import Text, listed


def is_served(served: Served | None, device: Device) -> bool:
    """A card of which nobody told the compute capability is taken for one that fits: vLLM itself will say."""
    if served is None:
        return False
    if not device.is_gpu:
        return served.cpu
    if served.cuda is None:
        return False
    low, high = served.cuda
    return device.capability is None or low <= device.capability <= high


def width_of(config: Mapping[str, Any]) -> int | None:
    """Bits of a weight of a model in the catalog, from its config; None: nobody wrote them down."""
    return (config.get("quantization") or {}).get("num_bits")


def refusal(
    name: str, made: Format, devices: Iterable[Device], num_bits: int | None = None, engine: str = engines.VLLM
) -> Text | None:
    """Why none of the devices answers from this model's files, and which formats are served there; None: one does."""
    if engine != engines.VLLM:
        return _not_loaded(name, made, engine)
    known, served = list(devices), made.where(num_bits)
    if any(is_served(served, device) for device in known):
        return None
    others = [other.name for other in formats.TABLE.values() if any(is_served(other.served, one) for one in known)]
    if served is None and made.programs:
        text = (
            "is {name!r}, in format {format}, which vLLM does not load: download it for {programs}, or export {others}"
        )
        return Text(text, name=name, format=made.name, programs=", ".join(made.programs), others=", ".join(others))
    text = "is {name!r}, in format {format}, which vLLM serves on {where}: here are {devices}. Export it as {others}"
    there = listed(sorted({_described(device) for device in known}))
    told = f"{made.name} ({num_bits} bits)" if num_bits in made.served_at else made.name
    return Text(text, name=name, format=told, where=where(served), devices=there, others=", ".join(others))


def _not_loaded(name: str, made: Format, engine: str) -> Text | None:
    """Engines other than vLLM compute a format wherever torch runs."""
    known = engines.ENGINES[engine]
    if known.loads(made):
        return None
    text = "is {name!r}, in format {format}, which engine {engine} does not load: it loads {formats}; leave engine out"
    return Text(text, name=name, format=made.name, engine=engine, formats=", ".join(known.formats or ()))


def left_to(others: Iterable[Iterable[Device]], mine: Iterable[Device]) -> list[str]:
    """Formats that one of the other machines serves and this one does not."""
    here, there = list(mine), [device for devices in others for device in devices]
    return [
        made.name
        for made in formats.TABLE.values()
        if not any(is_served(made.served, one) for one in here) and any(is_served(made.served, one) for one in there)
    ]


def where(served: Served | None) -> Text:
    """In words: `NVIDIA cards of compute capability 7.5 to 9.0 and CPUs`."""
    cards = _cards(served.cuda) if served and served.cuda else None
    if cards is None:
        return Text("CPUs only") if served and served.cpu else Text("no machine")
    return Text("{cards} and CPUs", cards=cards) if served and served.cpu else cards


def _cards(cuda: tuple[float, float]) -> Text:
    low, high = cuda
    if high == ANY_NEWER:
        return Text("NVIDIA cards of compute capability {low} and newer", low=low)
    return Text("NVIDIA cards of compute capability {low} to {high}", low=low, high=high)


def _described(device: Device) -> str:
    if not device.is_gpu:
        return "CPUs"
    return f"{device.kind or 'GPUs'}" + (f" ({device.capability})" if device.capability else "")
