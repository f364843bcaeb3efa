"""Spans by OpenTelemetry's SDK, sent in the background to a collector as OTLP over HTTP.

A collector that is away costs nothing but the spans: they wait in a queue of bounded length, and what does not fit is
dropped. Nothing global is set: libraries that look for OpenTelemetry's own tracer find none.
"""

from __future__ import annotations

import atexit
import logging
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.trace import Span as RecordedSpan

from shared import tracing
from shared.correlation import TRACEPARENT
from shared.settings import InvalidSetting, Settings
from shared.tracing import Kind, Span

KINDS: Mapping[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
#: How long spans wait for others to be sent with.
DELAY_MS = 1000
#: A collector that takes longer is away; a process that ends waits for it twice at most.
TIMEOUT_SECONDS = 2
NANOSECONDS = 1_000_000_000


class OtlpTracer:
    def __init__(self, settings: Settings, service: str):
        """Raises InvalidSetting."""
        url = _checked(tracing.url(settings))
        sender = OTLPSpanExporter(endpoint=url, headers=headers(settings.otlp_headers), timeout=TIMEOUT_SECONDS)
        self._exporter = Impatient(sender)
        self._provider = TracerProvider(
            # A trace that somebody began is kept as that one says.
            sampler=ParentBased(TraceIdRatioBased(settings.trace_ratio)),
            shutdown_on_exit=False,
            resource=Resource.create(
                {
                    "service.name": f"tunesmith-{service}",
                    "service.version": version("tunesmith"),
                    "service.instance.id": settings.worker_id or f"{socket.gethostname()}-{service}",
                }
            ),
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter, schedule_delay_millis=DELAY_MS))
        self._tracer = self._provider.get_tracer("tunesmith")
        # It says with a traceback, of every batch, that the collector is away.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        atexit.register(self.close)

    def start(
        self, name: str, parent: str = "", *, kind: Kind = "internal", at: float | None = None, **attributes: Any
    ) -> Span:
        begun = self._tracer.start_span(
            name,
            set_span_in_context(NonRecordingSpan(_context(parent))),
            kind=KINDS[kind],
            attributes=_named(attributes),
            start_time=_nanoseconds(at),
        )
        return OtlpSpan(begun)

    def close(self) -> None:
        atexit.unregister(self.close)
        self._exporter.ends = True
        self._provider.shutdown()


class Impatient(SpanExporter):
    """Sends spans; a process that ends does not wait for a collector that has just not answered."""

    def __init__(self, sender: SpanExporter):
        self._sender = sender
        self._is_away = False
        #: Set when the process ends.
        self.ends = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.ends and self._is_away:
            return SpanExportResult.FAILURE
        result = self._sender.export(spans)
        self._is_away = result is not SpanExportResult.SUCCESS
        return result

    def shutdown(self) -> None:
        self._sender.shutdown()


class OtlpSpan:
    def __init__(self, span: RecordedSpan):
        self._span = span

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def tell(self, **attributes: Any) -> None:
        self._span.set_attributes(_named(attributes))

    def event(self, name: str, *, at: float | None = None, **attributes: Any) -> None:
        self._span.add_event(name, _named(attributes), _nanoseconds(at))

    def end(self, *, at: float | None = None, error: str = "") -> None:
        if error:
            self._span.set_status(StatusCode.ERROR, error)
        self._span.end(_nanoseconds(at))


def headers(text: str) -> dict[str, str]:
    """As OTEL_EXPORTER_OTLP_HEADERS has them: `name=value,name=value`, values percent-encoded."""
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip().lower(): unquote(value.strip()) for name, _, value in pairs}


def _checked(url: str) -> str:
    if url.startswith(("http://", "https://")):
        return url
    text = f"TUNESMITH_OTLP_ENDPOINT is {url!r}: must be the http(s) address of a collector that takes OTLP over HTTP"
    raise InvalidSetting(f"{text}, e.g. http://otel-collector:4318")


def _context(traceparent: str) -> SpanContext:
    found = TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return SpanContext(trace_id=0, span_id=0, is_remote=False)
    trace, span, flags = (int(part, 16) for part in found.groups())
    return SpanContext(trace_id=trace, span_id=span, is_remote=True, trace_flags=TraceFlags(flags))


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Python's keywords have no dots."""
    return {
        name.replace("__", "."): value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in attributes.items()
        if value is not None
    }


def _nanoseconds(at: float | None) -> int | None:
    return None if at is None else int(at * NANOSECONDS)
