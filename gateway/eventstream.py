"""A replica's server-sent events on their way to a client: whole events, byte for byte, and never a silent end.

An event that a dying replica left half written is dropped, and an error event follows, because the openai client takes
an early end for a finished answer. It is an iterator that waits, for any server; gateway/carrying.py reads it without
waiting (`fileno`, `receive`). Closing it closes the connection to the replica, which ends that generation.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gateway.exchange import Exchange, Lost
from gateway.patience import ClientGone, ShuttingDown, TooLong
from shared.errors import TunesmithError, Unavailable

log = logging.getLogger(__name__)

DONE = b"data: [DONE]"


@dataclass(frozen=True, kw_only=True)
class Usage:
    #: None where the answer did not tell it.
    prompt_tokens: int | None = None
    completion_tokens: int = 0


class ReplicaLost(Unavailable):
    """The replica went away while it answered: send the request again."""

    code = "upstream_lost"


class TooSlow(TunesmithError):
    """The replica did not answer in time."""

    status, code = 504, "upstream_timeout"


class EventStream:
    """An iterator of its own, not a generator: a generator that was closed before its first step would not run its
    `finally`, and the connection would stay."""

    def __init__(
        self,
        exchange: Exchange,
        first: bytes,
        *,
        model: str,
        request_id: str,
        seconds: float,
        include_usage: bool,
        finished: Callable[[Usage], None],
        ends: tuple[bytes, ...] = (DONE,),
    ):
        """`seconds`: the longest silence. `ends`: with one of them a line of the last event begins."""
        self.seconds = seconds
        #: What it is counted as; whoever closes it before its end has gone.
        self.outcome = "client_gone"
        #: Nothing follows any more.
        self.ended = False
        self._exchange = exchange
        self._first = first
        self._model = model
        self._request_id = request_id
        self._include_usage = include_usage
        self._finished = finished
        self._ends = ends
        self._later_ends = tuple(b"\n" + end for end in ends)
        self._pending = b""
        self._num_events = 0
        self._usage: Usage | None = None
        self._done = False
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._closed:
            if self.ended:
                self.close()
            elif events := self._next():
                return events
        raise StopIteration

    def fileno(self) -> int:
        return self._exchange.fileno()

    def begin(self) -> bytes:
        """What was there before anybody waited."""
        first, self._first = self._first, b""
        return self._events(first)

    def receive(self) -> bytes:
        """The whole events that have come, without waiting; at the end whatever must be said about it."""
        try:
            return self._events(self._exchange.receive())
        except Lost as error:
            return self._broken(error)

    def cut(self, why: TunesmithError) -> bytes:
        """Ends it from our side; what its client is told."""
        self.ended = True
        self.outcome = {"upstream_lost": "broken", "upstream_timeout": "too_slow"}.get(why.code, "unavailable")
        log.warning("A stream was ended: %s", why.message, extra={"request_id": self._request_id})
        return b"data: " + json.dumps({"error": why.as_dict()}).encode() + b"\n\n"

    def silence(self) -> TooSlow:
        """What there is to say when nothing came for as long as may be."""
        return too_slow(self._model, self.seconds)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = self.ended = True
        self._exchange.close()
        self._finished(self._usage or Usage(completion_tokens=self._num_events))

    def _next(self) -> bytes:
        if self._first:
            return self.begin()
        try:
            return self._events(self._exchange.read())
        except Lost as error:
            return self._broken(error)
        except TooLong:
            return self.cut(self.silence())
        except ShuttingDown as error:
            return self.cut(error)
        except ClientGone:
            self.close()
            return b""

    def _events(self, data: bytes) -> bytes:
        """`data` up to the end of its last whole event, after what was left before; the end is looked at as well."""
        events = self._whole(data)
        self._look(events)
        if self._exchange.ended and not self.ended:
            self.ended = True
            if not self._done:
                events += self.cut(ReplicaLost())
        return events

    def _broken(self, error: Exception) -> bytes:
        log.warning("A stream broke: %s", error, extra={"request_id": self._request_id})
        if self._done:
            self.ended = True
            return b""
        return self.cut(ReplicaLost())

    def _whole(self, data: bytes) -> bytes:
        if not self._pending and data.endswith(b"\n\n"):
            return data
        data = self._pending + data
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            end = 0
        self._pending = data[end:]
        return data[:end]

    def _look(self, events: bytes) -> None:
        """Without `include_usage` every event counts as one token: vLLM sends one per step of its engine, so this is
        the number to within the first (role) and the last event. No JSON is parsed for it."""
        self._num_events += events.count(b"\n\n")
        # A model may write them, too: within a line, for JSON has no line breaks in its texts.
        if events.startswith(self._ends) or any(end in events for end in self._later_ends):
            self._done = True
            self.outcome = "answered"
            self._num_events -= 1
        if self._include_usage and b'"usage":{' in events:
            for event in events.split(b"\n\n"):
                if b'"usage":{' in event:
                    self._usage = usage(event.removeprefix(b"data: "))


def too_slow(model: str, seconds: float) -> TooSlow:
    text = "the replica of {model!r} did not answer in {seconds:.0f} s (request_timeout_seconds)"
    return TooSlow(text, model=model, seconds=seconds)


def usage(body: bytes) -> Usage:
    try:
        told: dict[str, Any] = json.loads(body)["usage"]
        if "input_tokens" in told:  # as /v1/responses calls them
            return Usage(prompt_tokens=told["input_tokens"], completion_tokens=told.get("output_tokens") or 0)
        return Usage(prompt_tokens=told["prompt_tokens"], completion_tokens=told.get("completion_tokens") or 0)
    except (ValueError, KeyError, TypeError):
        return Usage()
