"""Traces: spans of what a request brings about, from its HTTP request to the last phase of the job that it made.

Where a span belongs is said by a `traceparent` (W3C), which is all that travels: in headers, in a job's record, in the
environment of a replica. Off unless the setting `otlp_endpoint` names a collector; then a span is an object without
members, and nothing of OpenTelemetry is imported. What writes spans is shared/otlp.py.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from shared.settings import Settings

Kind = Literal["internal", "server", "client", "producer", "consumer"]


class Span(Protocol):
    """One thing that takes time."""

    @property
    def traceparent(self) -> str:
        """What its own parts name as their parent; empty where there is no trace."""

    def tell(self, **attributes: Any) -> None:
        """Add attributes; those that are None are left out."""

    def event(self, name: str, *, at: float | None = None, **attributes: Any) -> None:
        """Something that happened meanwhile; `at`, here and below: Unix seconds, now where left out."""

    def end(self, *, at: float | None = None, error: str = "") -> None:
        """Once; what it says after that is lost. `error`: why it failed."""


class Tracer(Protocol):
    """Where the spans of a process go."""

    def start(
        self, name: str, parent: str = "", *, kind: Kind = "internal", at: float | None = None, **attributes: Any
    ) -> Span:
        """Begin a span below the one that `parent` names (a traceparent), else a new trace. Names of attributes have
        `__` for a dot."""

    def close(self) -> None:
        """Send what is left."""


class NoSpan:
    """Tells nobody; a trace that somebody else began goes on through it."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str = ""):
        self.traceparent = traceparent

    def tell(self, **attributes: Any) -> None:
        pass

    def event(self, name: str, *, at: float | None = None, **attributes: Any) -> None:
        pass

    def end(self, *, at: float | None = None, error: str = "") -> None:
        pass


class NoTracer:
    """As where nobody asked for traces."""

    def start(
        self, name: str, parent: str = "", *, kind: Kind = "internal", at: float | None = None, **attributes: Any
    ) -> Span:
        return NoSpan(parent)

    def close(self) -> None:
        pass


def make(settings: Settings, service: str) -> Tracer:
    """The tracer of a process. Raises InvalidSetting."""
    if not settings.otlp_endpoint:
        return NoTracer()
    # Imported here: 0.3 s and 12 MB that nobody pays who does not want traces.
    from shared import otlp

    return otlp.OtlpTracer(settings, service)


def url(settings: Settings) -> str:
    """Where spans are sent to; empty: nowhere."""
    given = settings.otlp_endpoint.rstrip("/")
    return given if not given or given.endswith("/v1/traces") else f"{given}/v1/traces"
