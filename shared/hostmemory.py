"""How much memory of the machine a process may still take: of the machine, of its container, of its own limit."""

from __future__ import annotations

import resource
from pathlib import Path


def free_bytes() -> int:
    return min(_host_bytes(), _limit_bytes(), _process_bytes())


def _host_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo tells no MemAvailable")


def _process_bytes() -> int:
    """What this process may still take where it has a limit of its own (TUNESMITH_PROCESS_MEMORY_GIB)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY:
        return 2**62
    lines = Path("/proc/self/status").read_text().splitlines()
    return limit - 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("VmData:"))


def _limit_bytes() -> int:
    """What the container may still take; without a limit, more than any machine has. Files that are only cached count
    as used there, and go when somebody needs the room."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        lines = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
    except OSError:
        return 2**62
    cached = sum(int(size) for name, size in lines if name in ("inactive_file", "active_file"))
    return 2**62 if limit == "max" else int(limit) - int(used) + cached
