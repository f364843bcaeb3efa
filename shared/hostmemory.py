"""How much memory of the machine a process may still take: of the machine, of its container, of its own limit."""

from __future__ import annotations

import resource
from pathlib import Path

#: More than any machine has.
UNLIMITED = 2**62


def free_bytes() -> int:
    return min(_host_bytes(), _limit_bytes(), _process_bytes())


def total_bytes() -> int:
    """What it could take if nothing else ran."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    own = UNLIMITED if limit == resource.RLIM_INFINITY else limit
    return min(_host_bytes("MemTotal"), _container_bytes(), own)


def _host_bytes(name: str = "MemAvailable") -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/meminfo tells no {name}")


def _process_bytes() -> int:
    """What this process may still take where it has a limit of its own (TUNESMITH_PROCESS_MEMORY_GIB)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY:
        return UNLIMITED
    lines = Path("/proc/self/status").read_text().splitlines()
    return limit - 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("VmData:"))


def _limit_bytes() -> int:
    """What the container may still take; without a limit, more than any machine has. Files that are only cached count
    as used there, and go when somebody needs the room."""
    folder = Path("/sys/fs/cgroup")
    try:
        used = int((folder / "memory.current").read_text())
        lines = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
    except OSError:
        return UNLIMITED
    cached = sum(int(size) for name, size in lines if name in ("inactive_file", "active_file"))
    return _container_bytes() - used + cached


def _container_bytes() -> int:
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return UNLIMITED
    return UNLIMITED if limit == "max" else int(limit)
