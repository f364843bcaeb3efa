"""Statistics of sample lengths, wherever they are counted: when data is prepared, and when it is previewed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Percentiles that are told, per cent.
PARTS = (50, 95, 99)


def summary(lengths: Sequence[int]) -> dict[str, Any]:
    """`p50`, `p95`, `p99`, `length_mean` and `length_max`, tokens; all 0 without samples."""
    ordered = sorted(lengths) or [0]
    marks = {f"p{part}": ordered[min(len(ordered) - 1, len(ordered) * part // 100)] for part in PARTS}
    return {"length_mean": round(sum(ordered) / len(ordered), 1), **marks, "length_max": ordered[-1]}
