"""What the start of a replica's process takes beside its spec, and what its end means."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from shared import crash, keeper, tracing
from shared.settings import Settings
from shared.tracing import Span
from shared.vllm_arguments import Address, Watching


@dataclass(kw_only=True)
class BackOff:
    """How long to wait before the next start, longer with each failure in a row."""

    first_seconds: float = 2.0
    most_seconds: float = 300.0
    #: A process that was ready for so long ends the row.
    steady_seconds: float = 300.0
    num_failures: int = 0

    def pause(self, ready_seconds: float) -> float:
        """After a failure; `ready_seconds`: how long the process that failed was ready, 0 where it never was."""
        if ready_seconds > self.steady_seconds:
            self.num_failures = 0
        pause = min(self.first_seconds * 2.0**self.num_failures, self.most_seconds)
        # No higher than needed: failures of days would make a power that is no float.
        self.num_failures += pause < self.most_seconds
        return pause


def watching(settings: Settings, span: Span) -> Watching:
    """What it tells of its requests; `span` is that of its start."""
    return Watching(
        traces_url=tracing.url(settings),
        traces_headers=settings.otlp_headers,
        traceparent=span.traceparent,
        logs_requests=settings.replica_log_requests,
    )


def meaning(code: int) -> str:
    if code == keeper.EXPIRED:
        return "was ended by its keeper: the ledger could not be reached for too long"
    return crash.meaning(code)


def address(host: str) -> Address:
    """Where an engine can listen: that address of `host` which is this machine's, as a number, so that nobody who asks
    the engine has to look for a name, and a port that nobody listens on now. If somebody takes it before the engine
    does, the next start takes another. Raises OSError."""
    wrong: OSError | None = None
    for family, _, _, _, place in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as free:
                free.bind(place)
                found, port = free.getsockname()[:2]
                return Address(host=found, port=port)
        except OSError as error:
            wrong = error
    raise OSError(f"no address of {host!r} (TUNESMITH_REPLICA_HOST) is this machine's: {wrong}") from wrong
