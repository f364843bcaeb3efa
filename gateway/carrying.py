"""Streams carried by one loop instead of a thread each: what a replica sends goes to its client as both are ready.
Requests whose answers have not begun are awaited in it, too.

A client that reads slowly holds up its own replica's socket and nobody else: while more than `HIGH_BYTES` wait for it
nothing more is read for it. One that leaves is noticed at once, also between two tokens, and its generation ends. The
loop is the server's own (gateway/gunicorn_worker.py); nothing here waits, nothing here is called by two threads, and
what fails in an unforeseen way ends one connection, not the loop (`at_the_edge`).
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from gateway.connections import CONNECT_SECONDS
from gateway.exchange import Exchange, Lost, Stale
from gateway.patience import ClientGone, ShuttingDown, TooLong
from shared.errors import TunesmithError

log = logging.getLogger(__name__)

#: More than this waits for the client: no more is read from the replica, until there is less than the second.
HIGH_BYTES, LOW_BYTES = 256 * 1024, 64 * 1024
LAST_CHUNK = b"0\r\n\r\n"
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Come = Callable[[bytes, Exception | None], None]
Given = ParamSpec("Given")


class Source(Protocol):
    """What is carried, e.g. an `EventStream`."""

    #: Longest silence of it, and of a client that does not read.
    seconds: float
    #: Nothing follows any more.
    ended: bool

    def fileno(self) -> int: ...
    def receive(self) -> bytes: ...
    def cut(self, why: TunesmithError) -> bytes: ...
    def silence(self) -> TunesmithError: ...
    def close(self) -> None: ...


class Fallible(Protocol):
    """What is given up when something in it fails."""

    def fail(self, error: Exception) -> None: ...


One = TypeVar("One", bound=Fallible)


def at_the_edge(act: Callable[Concatenate[One, Given], None]) -> Callable[Concatenate[One, Given], None]:
    """What the loop calls: an exception that left it would end the process, and all streams with it."""

    @wraps(act)
    def guarded(self: One, /, *args: Given.args, **kwargs: Given.kwargs) -> None:
        try:
            act(self, *args, **kwargs)
        except Exception as error:
            log.exception("A connection is given up")
            self.fail(error)

    return guarded


class Carrier:
    """All streams of a server that its loop carries."""

    def __init__(self, selector: selectors.BaseSelector):
        """Whoever selects calls the data of each key with its file object."""
        self._selector = selector
        self._carried: set[Carried | Awaited] = set()
        self._looked_at = 0.0

    def __len__(self) -> int:
        return len(self._carried)

    def carry(
        self, source: Source, client: socket.socket, chunked: bool, done: Callable[[bool], None], said: bytes = b""
    ) -> None:
        """`said`: what goes before it. `done`: with whether all of it reached the client, whose socket is then left to
        the caller."""
        carried = Carried(source, client, chunked, self._selector, lambda ok: self._finish(carried, ok, done), said)
        self._carried.add(carried)
        carried.begin()

    def wait(self, exchange: Exchange, client: socket.socket, seconds: float, come: Come) -> None:
        """`come`: with the first bytes of the answer, or with none and what happened instead: an error to tell, None
        where the request may be sent once more. Both sockets are then the caller's. `seconds`: the longest silence."""
        awaited = Awaited(exchange, client, seconds, self._selector, lambda *what: self._come(awaited, what, come))
        self._carried.add(awaited)
        awaited.begin()

    def look(self) -> None:
        """Ends streams that have been silent for too long, and those of clients that do not read; cheap to call."""
        now = time.monotonic()
        if now - self._looked_at < 1.0:
            return
        self._looked_at = now
        for carried in list(self._carried):
            carried.look(now)

    def cut(self) -> None:
        """Ends all streams in good order."""
        for carried in list(self._carried):
            carried.end(ShuttingDown())

    def _come(self, awaited: Awaited, what: tuple[bytes, Exception | None], come: Come) -> None:
        self._carried.discard(awaited)
        come(*what)

    def _finish(self, carried: Carried, ok: bool, done: Callable[[bool], None]) -> None:
        self._carried.discard(carried)
        done(ok)


def heard(client: socket.socket) -> bytes | None:
    """The first byte of what a client has sent, which stays there; None: nothing. Empty: it has left."""
    try:
        return client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def framed(events: bytes, chunked: bool) -> bytes:
    """As they go to the client."""
    return b"%x\r\n%b\r\n" % (len(events), events) if chunked and events else events


class Carried:
    """One stream between its two sockets."""

    def __init__(
        self,
        source: Source,
        client: socket.socket,
        chunked: bool,
        selector: selectors.BaseSelector,
        done: Callable[[bool], None],
        said: bytes,
    ):
        self._source = source
        self._client = client
        self._chunked = chunked
        self._selector = selector
        self._done = done
        self._out = bytearray(said)
        #: Its last chunk is among `_out`.
        self._is_sealed = False
        self._is_over = False
        #: What the selector waits for, per side.
        self._waits = {True: 0, False: 0}
        #: The client sent something ahead: whether it left is then seen by writing only.
        self._is_ahead = False
        self._moved_at = time.monotonic()

    @at_the_edge
    def begin(self) -> None:
        self._client.setblocking(False)
        self._take()

    @at_the_edge
    def look(self, now: float) -> None:
        if now - self._moved_at <= self._source.seconds:
            return
        if self._out:
            self._finish(False)
        else:
            self.end(self._source.silence())

    @at_the_edge
    def end(self, why: TunesmithError) -> None:
        if not self._source.ended:
            self._put(self._source.cut(why))
            self._flush()

    def fail(self, error: Exception) -> None:
        self._finish(False)

    @at_the_edge
    def _on_source(self, _: Any) -> None:
        if not self._is_over:
            self._take()

    @at_the_edge
    def _on_client(self, _: Any) -> None:
        if self._is_over or not self._is_there():
            return
        self._flush()

    def _take(self) -> None:
        """What the replica has sent goes out as far as the client takes it."""
        if events := self._source.receive():
            self._put(events)
        self._flush()

    def _put(self, events: bytes) -> None:
        self._moved_at = time.monotonic()
        self._out += framed(events, self._chunked)

    def _flush(self) -> None:
        if self._source.ended and not self._is_sealed:
            self._is_sealed = True
            self._out += LAST_CHUNK if self._chunked else b""
        try:
            while self._out:
                num_sent = self._client.send(self._out)
                del self._out[:num_sent]
                self._moved_at = time.monotonic()
        except BlockingIOError:
            pass
        except OSError:
            self._finish(False)
            return
        if self._source.ended and not self._out:
            self._finish(True)
            return
        self._wait()

    def _wait(self) -> None:
        """Tells the selector what is waited for now."""
        is_full = len(self._out) > (LOW_BYTES if not self._waits[True] else HIGH_BYTES)
        self._want(True, 0 if self._source.ended or is_full else READ)
        self._want(False, (0 if self._is_ahead else READ) | (WRITE if self._out else 0))

    def _want(self, is_source: bool, events: int) -> None:
        before = self._waits[is_source]
        if events == before:
            return
        place: Any = self._source if is_source else self._client
        called = self._on_source if is_source else self._on_client
        self._waits[is_source] = events
        if not before:
            self._selector.register(place, events, called)
        elif not events:
            self._selector.unregister(place)
        else:
            self._selector.modify(place, events, called)

    def _is_there(self) -> bool:
        """Whether the client still listens. What it sent ahead is left for its next request."""
        if self._is_ahead:
            return True
        if (sent := heard(self._client)) == b"":
            self._finish(False)
            return False
        self._is_ahead = sent is not None
        return True

    def _finish(self, ok: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        try:
            self._want(False, 0)
            self._want(True, 0)
            self._source.close()
        except Exception:  # who is told of the end has to know it whatever happens
            log.exception("A stream could not be ended properly")
            ok = False
        self._done(ok)


class Awaited:
    """One request that was sent, up to the first bytes of its answer."""

    def __init__(
        self, exchange: Exchange, client: socket.socket, seconds: float, selector: selectors.BaseSelector, come: Come
    ):
        self._exchange = exchange
        self._client = client
        self._seconds = seconds
        self._selector = selector
        self._come = come
        self._is_over = False
        #: Whether the selector looks at the client: not any more when it sent something ahead.
        self._is_watched = True
        self._since = time.monotonic()

    @at_the_edge
    def begin(self) -> None:
        self._client.setblocking(False)
        self._selector.register(self._exchange, READ if self._exchange.is_sent else READ | WRITE, self._on_replica)
        self._selector.register(self._client, READ, self._on_client)

    @at_the_edge
    def look(self, now: float) -> None:
        if now - self._since > self._seconds:
            self._end(b"", TooLong())
        elif now - self._since > CONNECT_SECONDS and not self._exchange.is_begun:
            self._end(b"", Lost("it accepts no connection"))

    @at_the_edge
    def end(self, why: TunesmithError) -> None:
        self._end(b"", why)

    def fail(self, error: Exception) -> None:
        self._end(b"", error)

    @at_the_edge
    def _on_replica(self, _: Any) -> None:
        if self._is_over:
            return
        exchange = self._exchange
        try:
            if not exchange.is_sent:
                exchange.push()
                if exchange.is_sent:
                    self._selector.modify(exchange, READ, self._on_replica)
            first = exchange.receive()
        except (Lost, Stale) as error:
            self._end(b"", error)
            return
        if first and exchange.status == 200:
            self._end(first, None)
        elif exchange.ended or exchange.status not in (0, 200):
            # Whoever asks once more reads what it says.
            self._end(b"", None)

    @at_the_edge
    def _on_client(self, _: Any) -> None:
        if self._is_over:
            return
        if (sent := heard(self._client)) == b"":
            self._end(b"", ClientGone())
        elif sent is not None:
            self._is_watched = False
            self._selector.unregister(self._client)

    def _end(self, first: bytes, why: Exception | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        for place in (self._exchange, self._client) if self._is_watched else (self._exchange,):
            with suppress(KeyError, ValueError):  # it is not there where `begin` failed
                self._selector.unregister(place)
        self._come(first, why)
