"""Locks that a killed process has left where torch compiles DeepSpeed's operations.

torch waits for such a lock for ever: without this a rank that was killed while it compiled would cost every later
training on the machine. Who compiles has its lock open; one that no process has open, and that is not of this moment,
is nobody's.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from glob import glob
from pathlib import Path

from shared.settings import process_environment

#: Between making a lock and being seen to have it open.
YOUNG_SECONDS = 5.0


def remove_stale_locks(root: Path | None = None) -> list[Path]:
    """Returns those that were removed."""
    held, removed = None, []
    for lock in [*(root or _root()).glob("*/lock"), *(root or _root()).glob("*/*/lock")]:
        with suppress(FileNotFoundError):  # another rank was faster
            if time.time() - lock.stat().st_mtime < YOUNG_SECONDS:
                continue
            held = _open_files() if held is None else held
            if str(lock.resolve()) not in held:
                lock.unlink()
                removed.append(lock)
    return removed


def _root() -> Path:
    from torch.utils.cpp_extension import get_default_build_root

    return Path(process_environment("TORCH_EXTENSIONS_DIR").get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def _open_files() -> set[str]:
    """Of all processes that can be seen."""
    found = set()
    for descriptor in glob("/proc/[0-9]*/fd/*"):
        with suppress(OSError):  # closed by now, or somebody else's
            found.add(os.readlink(descriptor))
    return found
