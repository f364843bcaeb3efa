"""How many replicas a deployment wants, by its spec, its load and whether anybody asks: pure functions.

With `max_replicas` the number follows the load; with `idle_timeout_seconds` it goes to 0 when nobody asks, and the next
request brings it back. Who looks is the sweep (shared/sweep.py); gateways only say that they were asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.records import Deployment


def is_scaled(spec: Mapping[str, Any]) -> bool:
    """Whether the number of replicas follows the load."""
    return spec.get("max_replicas") is not None


def within(spec: Mapping[str, Any], count: int) -> int:
    """The nearest number that the spec allows while it is in use."""
    low = max(1, int(spec.get("min_replicas") or 1))
    return max(low, min(count, int(spec["max_replicas"]))) if is_scaled(spec) else count


def woken(spec: Mapping[str, Any]) -> int | None:
    """What is wanted when a request comes to one that sleeps; None: what the spec says."""
    return within(spec, 1) if is_scaled(spec) else None


def resized(before: Deployment, spec: Mapping[str, Any]) -> int | None:
    """What is wanted under another spec; None: what it says. A number of replicas that the user changes is meant."""
    is_meant = spec.get("replicas") != before.spec.get("replicas")
    if before.num_wanted == 0 and not is_meant and spec.get("idle_timeout_seconds") is not None:
        return 0
    if not is_scaled(spec):
        return None
    now = before.num_wanted or int(before.spec.get("replicas", 1))
    return within(spec, int(spec.get("replicas", 1)) if is_meant else now)
