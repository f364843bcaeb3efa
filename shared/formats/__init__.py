"""Export formats: one declaration a file; quantizers lie under the same names in the export's child."""

from __future__ import annotations

from collections.abc import Mapping

from shared import registry
from shared.declarations import Format
from shared.fields import Message

__all__ = ["BITS", "LATER", "TABLE", "Format", "complaint", "get", "names", "of_bits"]

#: Formats that are planned: what to do instead.
LATER: Mapping[str, str] = {}
TABLE: Mapping[str, Format] = registry.load(__name__, __path__, "FORMAT")
#: What `export_quantization_bit` may be.
BITS: tuple[int, ...] = tuple(sorted({bits for made in TABLE.values() for bits in made.bits}))


def names() -> list[str]:
    return list(TABLE)


def get(name: str) -> Format:
    return TABLE[name]


def of_bits(bits: int | None) -> str:
    """The format that LF's `export_quantization_bit` asks for; None: merged, nothing quantized."""
    return next(made.name for made in TABLE.values() if bits in made.default_for)


def complaint(value: str) -> Message | None:
    return registry.complaint(value, TABLE, {name: why for name, why in LATER.items() if name not in TABLE})
