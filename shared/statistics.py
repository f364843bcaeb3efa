"""Means with their standard errors: how far they would move if as many other rows had been drawn. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error; of a single value nothing can be said."""
    count = len(values)
    middle = sum(values) / count
    if count < 2:
        return middle, None
    return middle, math.sqrt(sum((value - middle) ** 2 for value in values) / (count - 1) / count)


def ratio(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float | None]:
    """Of a mean over tokens: sum of all sums by sum of all counts. Tokens of one sample go together, so its error is
    that of a ratio over samples (linearized): sqrt(n / (n - 1) * sum (s_i - r c_i)^2) / sum c_i."""
    total, count = sum(counts), len(sums)
    found = sum(sums) / total
    if count < 2:
        return found, None
    spread = sum((own - found * number) ** 2 for own, number in zip(sums, counts, strict=True))
    return found, math.sqrt(count / (count - 1) * spread) / total


def told(**measured: tuple[float, float | None]) -> dict[str, float]:
    """`{name}` and `{name}_stderr` of each."""
    names = ((name, value) for name, (found, error) in measured.items() for name, value in _pair(name, found, error))
    return dict(names)


def _pair(name: str, found: float, error: float | None) -> list[tuple[str, float]]:
    return [(name, found)] if error is None else [(name, found), (f"{name}_stderr", error)]
