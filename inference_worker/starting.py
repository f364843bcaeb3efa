"""What the start of a replica's process takes beside its spec, and what its end means."""

from __future__ import annotations

import socket

from shared import crash, keeper, tracing
from shared.settings import Settings
from shared.tracing import Span
from shared.vllm_arguments import Watching


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


def free_port(host: str) -> int:
    """A port that nobody listens on now. If somebody takes it before the engine does, the next start takes another."""
    family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as free:
        free.bind(address)
        return int(free.getsockname()[1])
