"""Keeps a set of services running until told to stop: start, restart with back-off, stop in order. Nothing else.

Every service runs under a keeper (shared/spawn.py): in a session of its own, so that a terminal's Ctrl-C reaches only
the supervisor; and when the supervisor dies, however it dies, or a service does, all that they started dies with them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from gateway.admin.services import Service
from shared import spawn
from shared.errors import TunesmithError
from shared.spawn import Kept

#: Waits before the first, second, ... restart in a row, seconds.
BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
#: A service that lived for this long starts its back-off anew.
STEADY_SECONDS = 60.0
#: Restarts of one service while the platform has not been ready yet; then starting is given up.
MAX_EARLY_FAILURES = 3
POLL_SECONDS = 0.2
#: No lease here: the keepers end with the pipe alone. (Ctrl-Z stops the supervisor and must not stop the services.)
NO_LIMIT_SECONDS = 10 * 365 * 86400.0
#: A log that is larger when its service starts is set aside as <name>.log.1.
MAX_LOG_BYTES = 50 * 2**20


class ServiceFailed(TunesmithError):
    """A service of the platform does not stay up."""


@dataclass(kw_only=True)
class Running:
    service: Service
    kept: Kept | None = None
    started: float = 0.0
    #: Ends in a row, each after less than STEADY_SECONDS.
    num_failures: int = 0
    #: Monotonic time of the next start while it is down.
    due: float = 0.0


class Supervisor:
    def __init__(self, env: dict[str, str], folder: Path, logs: Path, say: Callable[[str], None]):
        self._env = env
        self._folder = folder
        self._logs = logs
        self._say = say
        self._running: list[Running] = []

    def start(self, service: Service) -> None:
        running = Running(service=service)
        self._running.append(running)
        self._start(running)

    def check(self, *, is_ready: bool = True) -> None:
        """Restart what ended and is due. Raises ServiceFailed when, not ready yet, a service keeps ending."""
        for running in self._running:
            if running.kept is not None and (code := running.kept.poll()) is not None:
                self._note_end(running, code, is_ready)
            if running.kept is None and time.monotonic() >= running.due:
                self._start(running)

    def stop(self, is_urgent: Callable[[], bool]) -> None:
        """Rank after rank: SIGTERM, the time each may take, then its keeper kills. `is_urgent` shortens the wait."""
        for _, same in groupby(
            sorted(self._running, key=lambda running: running.service.rank), lambda r: r.service.rank
        ):
            self._stop_together(list(same), is_urgent)
        self._running.clear()

    def log(self, service: Service) -> Path:
        return self._logs / f"{service.name}.log"

    def _start(self, running: Running) -> None:
        log = self.log(running.service)
        if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        running.kept = spawn.start(
            running.service.argv,
            env=self._env | running.service.env,
            folder=self._folder,
            log=log,
            limit_seconds=NO_LIMIT_SECONDS,
        )
        running.started = time.monotonic()

    def _note_end(self, running: Running, code: int, is_ready: bool) -> None:
        running.kept = None
        lived = time.monotonic() - running.started
        running.num_failures = 1 if lived > STEADY_SECONDS else running.num_failures + 1
        name, log = running.service.name, self.log(running.service)
        if not is_ready and running.num_failures >= MAX_EARLY_FAILURES:
            raise ServiceFailed(f"{name} ended {running.num_failures} times (exit code {code}):\n{tail(log)}")
        wait = BACKOFF_SECONDS[min(running.num_failures, len(BACKOFF_SECONDS)) - 1]
        running.due = time.monotonic() + wait
        self._say(f"{name} ended with exit code {code}; it starts again in {wait:.0f} s. See {log}")

    def _stop_together(self, group: Sequence[Running], is_urgent: Callable[[], bool]) -> None:
        alive = [(running, running.kept) for running in group if running.kept is not None]
        for _, kept in alive:
            terminate(kept)
        began, told = time.monotonic(), False
        while alive:
            time.sleep(0.05)
            elapsed = time.monotonic() - began
            alive = [(running, kept) for running, kept in alive if kept.poll() is None]
            for running, kept in alive:
                if is_urgent() or elapsed > running.service.grace_seconds:
                    kept.kill()
            if alive and elapsed > 3.0 and not told:
                names = ", ".join(running.service.name for running, _ in alive)
                self._say(f"waiting for {names} to end; running work goes back into the queue (Ctrl-C again: kill)")
                told = True


def terminate(kept: Kept) -> None:
    """SIGTERM to the service: its keeper leads the group, and ignores it. Children with sessions of their own do not
    hear it: they are their worker's."""
    with suppress(ProcessLookupError):
        os.killpg(kept.process.pid, signal.SIGTERM)


def tail(log: Path, num_lines: int = 15) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-num_lines:])
    except FileNotFoundError:
        return ""
