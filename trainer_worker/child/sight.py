"""Whether rank 0 sees what all ranks wrote, before a checkpoint is named: nodes share a folder over a network, and
such file systems show one machine's new files to another late, or never where the folder is not the same one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

#: How long rank 0 looks; NFS keeps what it knows of a folder for up to 60 s (acdirmax).
PATIENCE_SECONDS = 90.0
PAUSE_SECONDS = 0.5


def told_by_all(folder: Path) -> list[dict[str, int]]:
    """On every rank at once: each rank's view of the folder, path -> bytes."""
    told: list[dict[str, int]] = [{}] * dist.get_world_size()
    dist.all_gather_object(told, listed(folder))
    return told


def lacking(folder: Path, told: Sequence[dict[str, int]], patience_seconds: float = PATIENCE_SECONDS) -> list[str]:
    """Files that some rank has and this one does not see whole, once it has looked long enough."""
    wanted: dict[str, int] = {}
    for of_rank in told:
        for name, size in of_rank.items():  # who looked while it was written, or from afar, saw less
            wanted[name] = max(size, wanted.get(name, 0))
    until = time.monotonic() + patience_seconds
    while True:
        seen = listed(folder)
        missing = sorted(name for name, size in wanted.items() if seen.get(name, -1) < size)
        if not missing or time.monotonic() >= until:
            return missing
        time.sleep(PAUSE_SECONDS)


def listed(folder: Path) -> dict[str, int]:
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            found[path.relative_to(folder).as_posix()] = path.stat().st_size
    return found
