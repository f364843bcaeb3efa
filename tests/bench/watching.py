"""CPU time and memory of processes that somebody else started, looked at several times a second from outside: the same
eyes for every trainer that is compared. It ends nothing."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

import psutil

SECONDS = 0.2


class Watch:
    """While it is entered, all processes that `find` finds."""

    def __init__(self, find: Callable[[], Iterable[psutil.Process]]):
        self._find = find
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        #: Of each look: when, and the CPU seconds of all processes up to then, also of those that are gone.
        self._times: list[float] = []
        self._cpu: list[float] = []
        self._of: dict[int, float] = {}
        #: Of the largest process at any time.
        self.peak_rss_bytes = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()

    def cpu_seconds(self, start: float, end: float) -> float:
        """Between two times (seconds since the epoch)."""
        return self._until(end) - self._until(start)

    def _until(self, when: float) -> float:
        if not self._times:
            return 0.0
        place = min(max(bisect.bisect(self._times, when), 1), len(self._times) - 1)
        (before, after), (low, high) = self._times[place - 1 : place + 1], self._cpu[place - 1 : place + 1]
        share = min(max((when - before) / max(after - before, 1e-9), 0.0), 1.0)
        return low + share * (high - low)

    def _look(self) -> None:
        while not self._stopping.wait(SECONDS):
            for process in self._find():
                try:
                    with process.oneshot():
                        times, rss = process.cpu_times(), process.memory_info().rss
                except psutil.Error:
                    continue  # it has just ended
                self._of[process.pid] = times.user + times.system
                self.peak_rss_bytes = max(self.peak_rss_bytes, rss)
            self._times.append(time.time())
            self._cpu.append(sum(self._of.values()))


def tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def told(text: str) -> list[psutil.Process]:
    """Processes with this text among their arguments."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(text in part for part in process.info["cmdline"] or ()):
            found.append(process)
    return found
