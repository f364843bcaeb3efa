"""Methods: which weights a training changes. One declaration a file; its implementation in the trainer's child."""

from __future__ import annotations

from collections.abc import Mapping

from shared import registry
from shared.declarations import Method
from shared.fields import Message

__all__ = ["LATER", "TABLE", "Method", "complaint", "get", "names"]

#: Methods that LF knows and we do not run yet: what to do instead.
LATER: Mapping[str, str] = {"oft": "vLLM serves no adapters of it; use lora"}
TABLE: Mapping[str, Method] = registry.load(__name__, __path__, "METHOD")


def names() -> list[str]:
    return list(TABLE)


def get(name: str) -> Method:
    return TABLE[name]


def complaint(value: str) -> Message | None:
    return registry.complaint(value, TABLE, {name: why for name, why in LATER.items() if name not in TABLE})
