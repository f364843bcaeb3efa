"""What a method declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Method:
    name: str
    doc: str
    #: What a finished training is in the catalog: "adapter" or "merged".
    makes: str
    #: Group of the spec that only this method reads, if any.
    group: str | None = None
    #: Functions of the spec marked with `@rule`.
    rules: tuple[Callable[[Any], str | None], ...] = ()
