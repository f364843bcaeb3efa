"""Reading vLLM's log for people: which line says why it ended, and its last lines without noise."""

from __future__ import annotations

import os
import re
from pathlib import Path

NUM_LINES = 40
#: Bytes of the log that are looked at: an engine that fails to start has said all within them.
LOOK_BYTES = 512 * 1024
MAX_LINE_CHARACTERS = 500
#: `(EngineCore pid=7) ERROR 11-25 03:22:33 [core.py:1] ValueError: ...`, or the same without what vLLM's logger adds.
_CAUSE = re.compile(
    r"^(?:\(\w+ pid=\d+\) )?(?:ERROR [^\]]*\] )?"
    r"((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): .+| +Value error, .+)$",
    re.MULTILINE,
)
#: Errors which only say that another one happened.
_FOLLOWING = ("Engine core initialization failed", "EngineDeadError", "EngineCore encountered an issue")
#: What a library says about itself whenever the process ends.
_NOISE = re.compile(r"nanobind: | - leaked | - \.\.\. skipped remainder|See https://nanobind")


def rotate(path: Path) -> None:
    """Keep the log of the process before, and no more: one that fails again and again must not fill the disk."""
    if path.exists():
        os.replace(path, path.with_suffix(".log.1"))


def cause(path: Path) -> str | None:
    """The first error that the log names: the last ones only say that something above them went wrong."""
    found = (match.group(1).strip() for match in _CAUSE.finditer(_read(path)))
    first = next((line for line in found if not any(word in line for word in _FOLLOWING)), None)
    return first[:MAX_LINE_CHARACTERS] if first else None


def tail(path: Path) -> str:
    lines = [line.rpartition("\r")[2] for line in _read(path).splitlines()]  # progress bars end in \r
    told = [line[:MAX_LINE_CHARACTERS] for line in lines if line.strip() and not _NOISE.match(line)]
    return "\n".join(told[-NUM_LINES:])


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - LOOK_BYTES))
            return file.read().decode(errors="replace").replace("\0", "")
    except FileNotFoundError:
        return ""
