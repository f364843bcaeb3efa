"""Which request and which job a line of a log, a wake-up or a span belongs to.

Bound where a request or an attempt begins and read where something is written, so that lines of libraries have the ids
as well: the one thing that is no argument here (a context variable: each thread has its own). Standard library only.
Says nothing itself: shared/logs.py writes the ids, shared/queue.py sends them, the job's record keeps them.
"""

from __future__ import annotations

import contextvars
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: Member of a job's envelope (`Job.request`) that says where the job came from.
ORIGIN = "origin"
#: https://www.w3.org/TR/trace-context/#traceparent-header, version 00: trace, span, flags. No id is all zeros.
TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")

_IDS: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("ids", default={})  # noqa: B039


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The request that made a job, and the span of a trace that its work belongs to; empty: not known."""

    request_id: str = ""
    #: As the header of that name.
    traceparent: str = ""

    @classmethod
    def of(cls, envelope: Mapping[str, Any]) -> Origin:
        """As the envelope of a job has it."""
        told = envelope.get(ORIGIN) or {}
        return cls(request_id=str(told.get("request_id", "")), traceparent=str(told.get("traceparent", "")))

    @property
    def trace_id(self) -> str:
        return trace_id(self.traceparent)

    def ids(self) -> dict[str, str]:
        """What lines about it have."""
        return filled(request_id=self.request_id, trace_id=self.trace_id)

    def envelope(self) -> dict[str, Any]:
        """The member of a job's envelope; none where nothing is known."""
        told = filled(request_id=self.request_id, traceparent=self.traceparent)
        return {ORIGIN: told} if told else {}


def current() -> dict[str, Any]:
    """The ids of what this thread does now."""
    return dict(_IDS.get())


def bind(**ids: Any) -> None:
    """From here on, in this thread and what it carries on; empty ones are left out."""
    _IDS.set({**_IDS.get(), **filled(**ids)})


def clear() -> None:
    """Nothing is done for anybody any more: threads are used again."""
    _IDS.set({})


@contextmanager
def bound(**ids: Any) -> Iterator[None]:
    """As `bind`, until its end."""
    token = _IDS.set({**_IDS.get(), **filled(**ids)})
    try:
        yield
    finally:
        _IDS.reset(token)


def carried(work: Callable[P, T]) -> Callable[P, T]:
    """`work` for another thread, with the ids of this one."""
    context = contextvars.copy_context()

    def in_context(*arguments: P.args, **named: P.kwargs) -> T:
        return context.run(work, *arguments, **named)

    return in_context


def trace_id(traceparent: str) -> str:
    """Empty where it is none."""
    found = TRACEPARENT.fullmatch(traceparent)
    return found[1] if found else ""


def filled(**ids: Any) -> dict[str, Any]:
    return {name: value for name, value in ids.items() if value not in (None, "")}
