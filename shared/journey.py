"""The spans of one attempt: its phases, the steps that its child tells of, its checkpoints. Written by the worker from
what the child says, so that a child needs no OpenTelemetry; an attempt whose worker is killed leaves what had ended.
"""

from __future__ import annotations

from typing import Any

from shared.tail import Line
from shared.tracing import NoTracer, Span, Tracer

#: Events of a child that are marks on its phase, and what of their data goes along.
MARKS = ("checkpoint", "finding", "tracker")
KEPT = ("step", "code", "field", "tracker")


class Journey:
    """Spans within one another: attempt, phase, step. At most one of each is open."""

    def __init__(self, tracer: Tracer | None = None, parent: str = "", **attributes: Any):
        self._tracer = tracer or NoTracer()
        self._attempt = self._tracer.start("attempt", parent, kind="consumer", **attributes)
        self._phase: Span | None = None
        self._step: Span | None = None

    @property
    def traceparent(self) -> str:
        """For what the child starts."""
        return (self._phase or self._attempt).traceparent

    def begin(self, phase: str, **attributes: Any) -> None:
        """A phase; the one before ends."""
        self._end_phase()
        self._phase = self._tracer.start(phase, self._attempt.traceparent, **attributes)

    def hear(self, line: Line) -> None:
        """What a child has said."""
        at, phase = line.created_at.timestamp(), self._phase
        if phase is None:
            return
        if line.type == "phase" and line.data.get("phase"):
            self._end_step(at=at)
            self._step = self._tracer.start(str(line.data["phase"]), phase.traceparent, at=at)
        elif line.type in MARKS:
            told = {name: line.data[name] for name in KEPT if name in line.data}
            phase.event(line.type, at=at, **told)
        elif line.type == "message" and isinstance(seconds := line.data.get("startup_seconds"), dict):
            phase.event("first step", at=at, **{f"seconds__{part}": took for part, took in seconds.items()})
        elif line.type in ("done", "stopped", "failed", "phase_done"):
            self._end_step(at=at, error=line.message if line.type == "failed" else "")

    def end(self, status: str, error: str = "") -> None:
        """The attempt; once."""
        self._end_phase(error=error)
        self._attempt.tell(status=status)
        self._attempt.end(error=error)

    def _end_phase(self, error: str = "") -> None:
        self._end_step(error=error)
        if self._phase is not None:
            self._phase.end(error=error)
            self._phase = None

    def _end_step(self, at: float | None = None, error: str = "") -> None:
        if self._step is not None:
            self._step.end(at=at, error=error)
            self._step = None
