"""Threads for requests, started as they are needed; work goes to the one that became idle last.

Python's own pool wakes two threads for each piece of work, and any of hundreds: with many requests at once the gateway
spent more on that than on a request's validation, and each needless wake-up waited for the interpreter's lock.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

Work = Callable[[], object]


class Idle:
    """One thread that waits for work."""

    __slots__ = ("_ready", "_work")

    def __init__(self) -> None:
        self._work: Work | None = None
        self._ready = threading.Lock()
        self._ready.acquire()

    def give(self, work: Work | None) -> None:
        """None: there will be no more."""
        self._work = work
        self._ready.release()

    def wait(self) -> Work | None:
        self._ready.acquire()
        work, self._work = self._work, None
        return work


class Threads:
    def __init__(self, most: int):
        self._most = most
        self._lock = threading.Lock()
        self._idle: list[Idle] = []
        #: Where all threads are at work.
        self._waiting: deque[Work] = deque()
        self._num = 0
        self._is_over = False

    def run(self, work: Work) -> None:
        """Soon, in one of them. `work` sees to its own errors."""
        with self._lock:
            if self._idle:
                self._idle.pop().give(work)
            elif self._num < self._most:
                self._num += 1
                # Nobody waits for them at the end of the process: a server has waited for what it had begun.
                threading.Thread(target=self._serve, args=(work,), name=f"request-{self._num}", daemon=True).start()
            else:
                self._waiting.append(work)

    def shutdown(self, wait: bool = False) -> None:
        """Idle ones end, others when they have done what they do. `wait` is for gunicorn, which never does."""
        with self._lock:
            self._is_over = True
            idle, self._idle = self._idle, []
        for one in idle:
            one.give(None)

    def _serve(self, first: Work) -> None:
        me = Idle()
        work: Work | None = first
        while work is not None:
            try:
                work()
            except Exception:  # the edge of the thread, which others wait for
                log.exception("A request's thread failed")
            work = self._next(me)

    def _next(self, me: Idle) -> Work | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if self._is_over:
                return None
            self._idle.append(me)
        return me.wait()
