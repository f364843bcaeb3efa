"""Seconds from the start of a training's first process to the end of its first step, by part.

The parts, in their order: `prepare` (the phase before, from the start of its process to its end), `wait` (until this
process was started, or told that it is its turn: devices, launcher), `imports`, `data`, `model`, `trainer`,
`first_step`. Together they are `total`; of what was done while the phase before still ran nothing counts twice.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


def process_began() -> float:
    """When this process was started, seconds since the epoch: before its interpreter and its first import."""
    # The second field is the name of the program in brackets, which may hold blanks; the start is the 22nd.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    up = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - (up - int(fields[19]) / os.sysconf("SC_CLK_TCK"))


class Startup:
    def __init__(self, began: float | None = None):
        """`began` is now where a training is no process of its own."""
        self._began = self._last = began if began is not None else time.time()
        #: Of each part that is over.
        self.seconds: dict[str, float] = {}
        #: Whether all parts are over.
        self.is_over = False

    def follow(self, seconds: float, ended: float) -> None:
        """The preparation took so long, and ended then."""
        before = {"prepare": round(seconds, 3), "wait": round(max(0.0, self._began - ended), 3)}
        beside = max(0.0, ended - self._began)
        for part in ("imports", "wait"):
            whole = self.seconds.get(part, 0.0)
            left = max(0.0, whole - beside)
            beside -= whole - left
            before[part] = round(before.get(part, 0.0) + left, 3)
        self.seconds = before | {name: took for name, took in self.seconds.items() if name not in before}

    def mark(self, part: str) -> None:
        """What has happened since the last mark was this."""
        now = time.time()
        self.seconds[part] = round(self.seconds.get(part, 0.0) + now - self._last, 3)
        self._last = now

    def end(self) -> dict[str, float]:
        """After the first step."""
        self.mark("first_step")
        self.is_over = True
        self.seconds["total"] = round(sum(self.seconds.values()), 3)
        return self.seconds

    def __str__(self) -> str:
        return ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.seconds.items() if part != "total")
