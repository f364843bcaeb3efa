"""What a training stage declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates of one method: the usual range, the white paper's start and that of LF's examples."""

    low: float
    high: float
    paper: float
    lf: float


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    doc: str
    #: Columns that a row of its datasets must have, in our own names.
    columns: tuple[str, ...]
    #: Functions of the spec marked with `@rule`.
    rules: tuple[Callable[[Any], str | None], ...] = ()
    #: By method.
    rates: Mapping[str, Rates]
