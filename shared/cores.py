"""How many cores of the machine a process may use: what it may run on, and what its container may take of it."""

from __future__ import annotations

import math
import os
from pathlib import Path

#: Microseconds that the container may compute, and in how many of them; "max" where it may always (cgroup v2).
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available(quota: Path = QUOTA) -> int:
    """At least one; of half a core as much as of one."""
    return max(1, min(len(os.sched_getaffinity(0)), _container_cores(quota)))


def _container_cores(quota: Path) -> int:
    try:
        allowed, period = quota.read_text().split()
    except OSError:
        allowed, period = "max", ""
    return len(os.sched_getaffinity(0)) if allowed == "max" else math.ceil(int(allowed) / int(period))
