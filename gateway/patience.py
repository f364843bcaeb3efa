"""Waiting for a replica while somebody waits for us: a client that may leave, a server that may be told to end.

Every wait of a request goes through `Client`, so none outlives its client, and none outlives the time that a gateway
has for its end. Knows nothing of HTTP.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.errors import TunesmithError, Unavailable

#: Where a request's environ has the server's `Drain`, and (gunicorn, werkzeug) its client's socket.
DRAIN, SOCKETS = "tunesmith.drain", ("gunicorn.socket", "werkzeug.socket")
#: Where it has what became of the request before it came there, to be told.
FAILED = "tunesmith.failed"
#: How often a wait looks whether the server shall end.
SLICE_SECONDS = 1.0
#: Poll's word for a peer that sends no more; elsewhere than on Linux only a full hang-up is told.
HUNG_UP: int = getattr(select, "POLLRDHUP", 0)


class ClientGone(TunesmithError):
    """The client closed its connection before it was answered."""

    status, code, type = 499, "client_closed_request", "invalid_request_error"


class ShuttingDown(Unavailable):
    """This gateway is shutting down: send the request again."""

    code = "shutting_down"


class TooLong(Exception):
    """Nothing came for as long as was to be waited."""


@dataclass
class Drain:
    """Whether this server is about to end: it answers what it has begun and begins nothing new."""

    #: Of the monotonic clock: when what is still open is ended; None: the server goes on.
    ends_at: float | None = None

    def check(self) -> None:
        """Raises ShuttingDown when the server ends."""
        if self.ends_at is not None:
            raise ShuttingDown()

    @property
    def is_over(self) -> bool:
        return self.ends_at is not None and time.monotonic() >= self.ends_at


@dataclass(frozen=True, kw_only=True)
class Client:
    """Who asked. Without its connection (another server than ours, a test) its leaving is noticed by writing only."""

    connection: socket.socket | None = field(default=None, repr=False)
    drain: Drain = field(default_factory=Drain)

    @classmethod
    def of(cls, environ: Mapping[str, Any]) -> Client:
        """Whoever sent the request of this WSGI environ."""
        there = next((environ[name] for name in SOCKETS if name in environ), None)
        return cls(connection=there, drain=environ.get(DRAIN) or Drain())

    def wait(self, replica: socket.socket, seconds: float) -> None:
        """Returns when `replica` has something to read. Raises TooLong, ClientGone, or ShuttingDown when the server's
        time is over."""
        if not self._poll(replica, seconds):
            raise TooLong

    def pause(self, seconds: float) -> None:
        """Raises ClientGone, or ShuttingDown when the server's time is over."""
        self._poll(None, seconds)

    def _poll(self, replica: socket.socket | None, seconds: float) -> bool:
        """Whether `replica` has something to read within that time."""
        poller = select.poll()
        if replica is not None:
            poller.register(replica, select.POLLIN)
        if self.connection is not None:
            # Not POLLIN: what the client sends ahead is its next request.
            poller.register(self.connection, HUNG_UP)
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            ready = poller.poll(max(0.0, min(left, SLICE_SECONDS)) * 1000)
            if replica is not None and any(descriptor == replica.fileno() for descriptor, _ in ready):
                return True
            if ready:
                raise ClientGone()
            if self.drain.is_over:
                self.drain.check()
            if left <= 0:
                return False
