"""Connections to replicas, kept open for the next request: opening one for each costs the gateway a tenth of a
millisecond and the replica two, before the first token.

One that its server closed meanwhile is noticed by whoever uses it (gateway/exchange.py), who then opens another. A
connection whose answer was not read to its end never comes back here.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

#: A replica is on our own network: one that takes longer to accept is gone.
CONNECT_SECONDS = 2.0
#: uvicorn closes what was idle for 5 s.
IDLE_SECONDS = 2.0
#: Idle ones to all replicas together, out of the spare descriptors (gateway/gunicorn_worker.py).
MOST_IDLE = 128


class Connections:
    """All that a gateway keeps. Used by many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        #: Since when, to where, and which; the longest idle first.
        self._idle: deque[tuple[float, str, socket.socket]] = deque()

    def take(self, url: str) -> socket.socket | None:
        """The one to `url` that was used last; None: open one."""
        with self._lock:
            old = self._old()
            found = next((one for one in reversed(self._idle) if one[1] == url), None)
            if found is not None:
                self._idle.remove(found)
        for made in old:
            made.close()
        return found[2] if found else None

    def give_back(self, url: str, made: socket.socket) -> None:
        """One whose answer was read to its end."""
        with self._lock:
            old = self._old()
            if len(self._idle) >= MOST_IDLE:
                old.append(self._idle.popleft()[2])
            self._idle.append((self._clock(), url, made))
        for closed in old:
            closed.close()

    def __len__(self) -> int:
        return len(self._idle)

    def _old(self) -> list[socket.socket]:
        """Those that were idle for too long, taken out; the caller holds the lock."""
        limit, old = self._clock() - IDLE_SECONDS, []
        while self._idle and self._idle[0][0] < limit:
            old.append(self._idle.popleft()[2])
        return old


def connect(url: str) -> socket.socket:
    """A new one. Raises OSError."""
    host, port, _ = place(url)
    made = socket.create_connection((host, port), CONNECT_SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Waits are for two sockets at once, or none.
    made.setblocking(False)
    return made


def begin(url: str) -> socket.socket | None:
    """A new one that is perhaps not open yet: what is sent over it waits, or fails. None where its host would have to
    be looked for by name. Raises OSError."""
    host, port, _ = place(url)
    family = _family(host)
    if family is None:
        return None
    made = socket.socket(family)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        with contextlib.suppress(BlockingIOError):
            made.connect((host, port))
    except OSError:
        made.close()
        raise
    return made


@lru_cache(maxsize=1024)
def _family(host: str) -> socket.AddressFamily | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return family
    return None


@lru_cache(maxsize=1024)
def place(url: str) -> tuple[str, int, str]:
    """Host and port, and both as a request names them."""
    parts = urlsplit(url)
    return str(parts.hostname), parts.port or 80, parts.netloc
