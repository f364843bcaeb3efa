"""What a training stage declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    doc: str
    #: Columns that a row of its datasets must have, in our own names.
    columns: tuple[str, ...]
    #: Functions of the spec marked with `@rule`.
    rules: tuple[Callable[[Any], str | None], ...] = ()
    #: Usual learning rate by method, where the white paper or LF's examples give one.
    learning_rates: dict[str, float]
