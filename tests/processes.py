"""Looking at processes that come and go meanwhile."""

from __future__ import annotations

import psutil


def command(process: psutil.Process) -> list[str]:
    """Its command line; nothing once it has ended."""
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []
