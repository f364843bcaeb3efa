"""One thread per gateway process that reads new events for all open streams, and the server-sent events they become.

A subscriber names a job and the number it has seen; it gets every later event in order, without gaps, old ones and new
ones by the same way. The thread sleeps while nobody listens.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from gateway.patience import Drain
from shared.errors import Unavailable
from shared.job import Event
from shared.tongues import chinese

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
#: A comment this often keeps proxies from closing a silent line.
HEARTBEAT_SECONDS = 15.0
#: Streams at once. Each holds a thread of the server's (gunicorn_conf.py), and other requests need some too.
MAX_STREAMS = 208
#: Events that a subscriber may lag behind before it is cut off: its client reconnects with the last id.
MAX_BEHIND = 10_000


@dataclass(eq=False)
class Subscriber:
    job_id: str
    #: Number of the last event put into the queue.
    cursor: int
    events: queue.Queue[Event] = field(default_factory=lambda: queue.Queue(MAX_BEHIND))
    #: Set when the client did not read fast enough.
    lost: bool = False


class Tailer:
    """`read` gives the events past each job's cursor, as `store.events.since` does."""

    def __init__(self, read: Callable[[dict[str, int]], list[Event]]):
        self._read = read
        self._subscribers: set[Subscriber] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def subscribe(self, job_id: str, after: int) -> Subscriber:
        subscriber = Subscriber(job_id, after)
        with self._changed:
            self._subscribers.add(subscriber)
            if self._thread is None:
                # Started by the first stream, not by the import: gunicorn forks in between.
                self._thread = threading.Thread(target=self._tail, name="event-tailer", daemon=True)
                self._thread.start()
            self._changed.notify()
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        with self._changed:
            self._subscribers.discard(subscriber)

    def check(self) -> None:
        """Raises Unavailable while there are as many streams as the server can hold."""
        if len(self._subscribers) >= MAX_STREAMS:
            raise Unavailable("{most} event streams are open: close some, or poll the job's events", most=MAX_STREAMS)

    def _tail(self) -> None:
        while True:
            with self._changed:
                while not self._subscribers:
                    self._changed.wait()
                subscribers = list(self._subscribers)
            try:
                self._deliver(subscribers)
            except Exception:  # the edge of the thread: a ledger that is away for a moment must not end all streams
                log.exception("Reading events failed; trying again")
            with self._changed:
                # Woken early by a new subscriber: what is there already goes out at once.
                self._changed.wait(POLL_SECONDS)

    def _deliver(self, subscribers: list[Subscriber]) -> None:
        cursors: dict[str, int] = {}
        for subscriber in subscribers:
            cursors[subscriber.job_id] = min(subscriber.cursor, cursors.get(subscriber.job_id, subscriber.cursor))
        while events := self._read(cursors):
            for event in events:
                cursors[event.job_id] = event.number
                for subscriber in subscribers:
                    if subscriber.job_id == event.job_id and subscriber.cursor < event.number:
                        self._put(subscriber, event)

    def _put(self, subscriber: Subscriber, event: Event) -> None:
        try:
            subscriber.events.put_nowait(event)
            subscriber.cursor = event.number
        except queue.Full:
            subscriber.lost = True
            self.leave(subscriber)


def stream(tailer: Tailer, job_id: str, after: int, ends_at: int | None, drain: Drain) -> Iterator[str]:
    """The body of one SSE answer; ends after the job's last event, or when the server shall end: its client comes again
    with the number that it has seen. `ends_at` is the number of the last event of a job that is finished already.

    It subscribes when its first piece is asked for: the answer to a HEAD, or to a client that is gone by then, is never
    begun, and nobody would unsubscribe it.
    """
    subscriber = tailer.subscribe(job_id, after)
    try:
        yield "retry: 3000\n\n"
        yield from _pieces(subscriber, after, ends_at, drain)
    finally:
        tailer.leave(subscriber)


def _pieces(subscriber: Subscriber, after: int, ends_at: int | None, drain: Drain) -> Iterator[str]:
    seen, spoke_at = after, time.monotonic()
    while not subscriber.lost and (ends_at is None or seen < ends_at):
        try:
            event = subscriber.events.get(timeout=1.0)
        except queue.Empty:
            if drain.ends_at is not None:
                return
            if time.monotonic() - spoke_at >= HEARTBEAT_SECONDS:
                spoke_at = time.monotonic()
                yield ": keep-alive\n\n"
            continue
        seen, spoke_at = event.number, time.monotonic()
        yield f"id: {event.number}\nevent: {event.type}\ndata: {json.dumps(event_json(event))}\n\n"
        if event.type == "done":
            return


def event_json(event: Event) -> dict[str, Any]:
    told = {"object": "job.event", "created_at": event.created_at.isoformat()}
    return asdict(event) | told | {"data": chinese.beside(event.message, event.data)}
