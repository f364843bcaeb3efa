"""Which devices a replica takes, as its spec says: for the workers that claim replicas and for whoever tells why one
waits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from shared.requirements import CPU

__all__ = ["CPU", "fits", "num_devices", "usable"]


def num_devices(spec: Mapping[str, Any]) -> int:
    return int(spec.get("tensor_parallel_size") or 1) * int(spec.get("pipeline_parallel_size") or 1)


def usable(spec: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """Those of the devices that the spec allows."""
    allowed = spec.get("gpus") or ()
    return sorted(name for name in names if not allowed or name in allowed)


def fits(spec: Mapping[str, Any], gpus: Sequence[str], num_promised: int, free: Collection[str]) -> bool:
    """Whether a machine with these GPUs, of which some are free and some of those promised to others, can start it
    now. One without GPUs starts whatever names none."""
    if not gpus:
        return not spec.get("gpus")
    return len(usable(spec, free)) - num_promised >= num_devices(spec)
