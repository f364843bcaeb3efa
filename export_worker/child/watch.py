"""What every step of an export uses to talk to its worker: phases, progress at most once a second, and being stopped.

The worker reads what is said here from events.jsonl (shared/attempt.py); nothing else leaves the child.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

#: Progress events closer together than this help nobody, seconds.
PROGRESS_EVERY = 1.0


class Stopped(Exception):
    """The user or a shutdown asked the export to end; it cannot be continued, only begun again."""

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(reason)


class Attempt(Protocol):
    """The part of shared.attempt.Attempt that an export uses."""

    def emit(self, type: str, message: str = "", level: str = "info", **data: Any) -> None: ...

    def wanted(self) -> str: ...


class Watch:
    """Reports of one running export. `check` raises Stopped when the worker asked for an end."""

    def __init__(self, attempt: Attempt, clock: Callable[[], float] = time.monotonic):
        self._attempt = attempt
        self._clock = clock
        self._phase = ""
        self._began = clock()
        self._reported = 0.0
        #: Seconds each phase took, for the result.
        self.seconds: dict[str, float] = {}

    def phase(self, name: str, message: str) -> None:
        self.check()
        self.end_phase()
        self._phase, self._began, self._reported = name, self._clock(), 0.0
        self._attempt.emit("phase", message, phase=name)

    def end_phase(self) -> None:
        if self._phase:
            self.seconds[self._phase] = round(self._clock() - self._began, 2)

    def progress(self, done: int, total: int, unit: str) -> None:
        """Check, then report when it is time or when all is done."""
        self.check()
        now = self._clock()
        if done >= total or now - self._reported >= PROGRESS_EVERY:
            self._reported = now
            self._attempt.emit("progress", done=done, total=total, unit=unit, phase=self._phase)

    def say(self, message: str, *, level: str = "info", **data: Any) -> None:
        self._attempt.emit("message", message, level, **data)

    def check(self) -> None:
        wanted = self._attempt.wanted()
        if wanted != "run":
            raise Stopped(wanted)
