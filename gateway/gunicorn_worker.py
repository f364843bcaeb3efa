"""Gunicorn's threaded worker, whose streams need no thread: the worker's own loop carries them (gateway/carrying.py).
What is to be streamed goes the short way from the start where it can (gateway/shortcut.py); every other request is
answered by the app in a thread, of a stream up to its first event.

Told to end (SIGTERM), it goes on taking connections, so that new requests are answered with 503 instead of waiting in
the kernel; open streams get until shortly before `graceful_timeout`, and an error event then.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import resource
import selectors
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Any
from weakref import WeakKeyDictionary

from gunicorn import SERVER, util
from gunicorn.http import wsgi
from gunicorn.workers.gthread import TConn, ThreadWorker

from gateway.carrying import Carrier, framed
from gateway.eventstream import EventStream
from gateway.http1 import Asked, asked
from gateway.patience import DRAIN, FAILED, Client, Drain
from gateway.shortcut import MAX_BODY_BYTES, MAX_HEAD_BYTES, NAME, Begun, Shortcut, is_plain
from gateway.threads import Threads
from shared.errors import TunesmithError

log = logging.getLogger(__name__)

#: Before gunicorn's own end: for what is said last to reach its client.
LAST_WORDS_SECONDS = 1.0
#: Files, ledger, pools; the rest is for connections: a stream has one to its client and one to its replica.
SPARE_DESCRIPTORS = 256
#: How often the arbiter is told that the worker lives: it asks once in 60 s, and gunicorn tells it at each event.
NOTIFY_SECONDS = 1.0
#: Python's own is 5 ms, in which a gateway answers several requests.
SWITCH_SECONDS = 0.001


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What became of a connection's request: as much of a future as gunicorn reads."""

    #: Whether the connection can be used for another.
    is_kept: Any

    def result(self) -> Any:
        return self.is_kept

    def cancelled(self) -> bool:
        return False


class CarryingWorker(ThreadWorker):
    """Overrides what gunicorn has overridden itself in its other workers: `handle_request`, and what follows it."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._drain = Drain()
        #: Answers that were begun in a thread and are to be carried on.
        self._handed: dict[TConn, tuple[EventStream, Any]] = {}
        self._carrier: Carrier | None = None
        self._notified_at = 0.0
        self._shortcut: Shortcut | None = None
        #: What has come of requests of which nobody has read anything else. Gunicorn drops connections by itself.
        self._read: WeakKeyDictionary[TConn, bytes] = WeakKeyDictionary()
        #: What became of requests on the short way, to be told on the ordinary one.
        self._failed: WeakKeyDictionary[TConn, TunesmithError] = WeakKeyDictionary()

    def init_process(self) -> None:
        self.bound(raised_descriptors())
        # It serves until its end.
        super().init_process()

    def bound(self, descriptors: int) -> None:
        """No more connections than there are descriptors for, and of those that wait for their next request so few
        that new ones are still taken: gunicorn counts with what was asked for."""
        most = min(self.cfg.worker_connections, (descriptors - SPARE_DESCRIPTORS) // 2)
        self.worker_connections, self.max_keepalived = most, max(most - self.cfg.threads, most // 2)

    def get_thread_pool(self) -> Threads:
        return Threads(self.cfg.threads)

    def notify(self) -> None:
        if (now := time.monotonic()) - self._notified_at >= NOTIFY_SECONDS:
            self._notified_at = now
            super().notify()

    def enqueue_req(self, conn: TConn) -> None:
        with self._edge(conn):
            if not self._is_short(conn):
                self._long(conn)

    @contextlib.contextmanager
    def _edge(self, conn: TConn) -> Iterator[None]:
        """Of the loop, which all streams hang on: what fails here ends this connection only."""
        try:
            yield
        except Exception:
            log.exception("A connection is given up")
            self.nr_conns -= 1
            conn.close()

    def _is_short(self, conn: TConn) -> bool:
        """Whether nothing more is to be done for the request on `conn`: it was sent on, or has not come whole."""
        if self._shortcut is None or not self.alive or (conn.parser and conn.parser.unreader.buf.getvalue()):
            return False
        try:
            piece = conn.sock.recv(MAX_HEAD_BYTES + MAX_BODY_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._wait(conn, self._read.get(conn, b""))
            return True
        except OSError:
            return False
        self._read[conn] = data = self._read.get(conn, b"") + piece
        if not piece or (found := asked(data)) is None:
            return False
        if found.is_whole:
            return self._is_sent(conn, found)
        if is_plain(found) if found.has_head else len(data) < MAX_HEAD_BYTES:
            self._wait(conn, data)
            return True
        return False

    def _wait(self, conn: TConn, data: bytes) -> None:
        """For what is missing; gunicorn's own list of those that wait so, which drops them in time."""
        self._read[conn] = data
        conn.sock.setblocking(False)
        conn.set_timeout()
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))
        self.pending_conns.append(conn)

    def _is_sent(self, conn: TConn, found: Asked) -> bool:
        assert self._shortcut is not None and self._carrier is not None
        client = Client(connection=conn.sock, drain=self._drain)
        if (begun := self._shortcut.begin(found, client)) is None:
            return False
        come = partial(self._come, conn, begun, found.keeps_alive)
        self._carrier.wait(begun.opened.exchange, conn.sock, begun.opened.seconds, come)
        return True

    def _come(self, conn: TConn, begun: Begun, keeps_alive: bool, first: bytes, why: Exception | None) -> None:
        with self._edge(conn):
            if first:
                self._carry(conn, begun, keeps_alive, first)
                return
            if (failed := begun.ended(why)) is not None:
                self._failed[conn] = failed
            self._long(conn)

    def _carry(self, conn: TConn, begun: Begun, keeps_alive: bool, first: bytes) -> None:
        self._read.pop(conn, None)
        stream, headers = begun.answered(first)
        is_kept = keeps_alive and self._may_keep()
        assert self._carrier is not None

        def done(ok: bool) -> None:
            with self._edge(conn):
                # What gunicorn needs for the next request on this connection.
                conn.init()
                self.finish_request(conn, Ended(is_kept=ok and is_kept))

        try:
            said = head(headers, is_kept) + framed(stream.begin(), True)
        except Exception:
            stream.close()
            raise
        self._carrier.carry(stream, conn.sock, True, done, said)

    def _may_keep(self) -> bool:
        """Whether a connection may wait for its next request. Gunicorn counts those that wait already, which are none
        yet when many are answered at once."""
        return bool(self.alive and self.cfg.keepalive and self.nr_conns <= self.max_keepalived)

    def _long(self, conn: TConn) -> None:
        """The ordinary way: gunicorn reads the request, the app answers it in a thread."""
        if data := self._read.pop(conn, b""):
            conn.init()
            conn.parser.unreader.unread(data)
            conn.data_ready = True
        self.tpool.run(partial(self._work, conn))

    def _work(self, conn: TConn) -> None:
        # What came with the connection is not waited for, for which gunicorn makes a selector.
        conn.data_ready = conn.data_ready or conn.initialized or has_come(conn.sock)
        self.method_queue.defer(self.finish_request, conn, Ended(is_kept=self.handle(conn)))

    def run(self) -> None:
        self.prepare()
        settle()
        super().run()

    def prepare(self) -> None:
        """What its loop does beside gunicorn's."""
        self._carrier = Carrier(self.poller)
        if not self.cfg.is_ssl:
            self._shortcut = self.wsgi.extensions[NAME]

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self.alive:
            self._drain.ends_at = time.monotonic() + max(0.0, self.cfg.graceful_timeout - LAST_WORDS_SECONDS)
        super().handle_exit(sig, frame)

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled or not self.alive)

    def _cap_keepalive(self, deadline: float) -> None:
        """Told to end, it waits no longer for requests that have not come whole than for those that may come next."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def murder_pending(self) -> None:
        super().murder_pending()
        if self._carrier is not None:
            self._carrier.look()
            if self._drain.is_over:
                self._carrier.cut()

    def handle_request(self, req: Any, conn: TConn) -> bool:
        response, environ = None, {}
        began = datetime.now()
        try:
            self.cfg.pre_request(self, req)
            response, environ = wsgi.create(req, conn.sock, conn.client, conn.server, self.cfg)
            environ["wsgi.multithread"] = True
            environ[DRAIN] = self._drain
            if conn in self._failed:
                environ[FAILED] = self._failed.pop(conn)
            if not self._may_keep():
                response.force_close()
            body = self.wsgi(environ, response.start_response)
            self._answer(conn, response, body, environ)
            self.log.access(response, req, environ, datetime.now() - began)
            return conn in self._handed or not response.should_close()
        except OSError:
            raise
        except Exception:
            if response is not None and response.headers_sent:
                self.log.exception("Error handling request")
                util.close_graceful(conn.sock)
                raise StopIteration from sys.exc_info()[1]
            raise
        finally:
            self.cfg.post_request(self, req, environ, response)

    def _answer(self, conn: TConn, response: Any, body: Any, environ: dict[str, Any]) -> None:
        try:
            if isinstance(body, EventStream) and not self.cfg.is_ssl:
                self._begin(conn, response, body)
            elif isinstance(body, environ["wsgi.file_wrapper"]):
                response.write_file(body)
                response.close()
            else:
                for piece in body:
                    response.write(piece)
                response.close()
        finally:
            if conn not in self._handed and hasattr(body, "close"):
                body.close()

    def _begin(self, conn: TConn, response: Any, stream: EventStream) -> None:
        """Its head and first events, from this thread and at once: nobody waits for another to wake up."""
        head = "".join([*response.default_headers(), *(f"{name}: {value}\r\n" for name, value in response.headers)])
        first = stream.begin()
        util.write(conn.sock, f"{head}\r\n".encode("latin-1") + framed(first, response.chunked))
        response.headers_sent = True
        self._handed[conn] = (stream, response)

    def finish_request(self, conn: TConn, fs: Ended) -> None:
        if conn not in self._handed:
            super().finish_request(conn, fs)
            return
        stream, response = self._handed.pop(conn)

        def done(ok: bool) -> None:
            ended = Ended(is_kept=ok and not response.should_close())
            super(CarryingWorker, self).finish_request(conn, ended)

        assert self._carrier is not None
        self._carrier.carry(stream, conn.sock, response.chunked, done)


def head(headers: Mapping[str, str], is_kept: bool) -> bytes:
    """Of an answer in chunks, as gunicorn writes it."""
    told = {
        "Server": SERVER,
        "Date": date(int(time.time())),
        "Connection": "keep-alive" if is_kept else "close",
        "Transfer-Encoding": "chunked",
        **headers,
    }
    lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in told.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


@lru_cache(maxsize=1)
def date(seconds: int) -> str:
    return str(util.http_date(seconds))


def settle() -> None:
    """Keep what is not the requests' out of their way: a collection of all that was imported takes 70 ms in which no
    thread runs, and whoever waits for the interpreter's lock asks for it only after `SWITCH_SECONDS`."""
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)


def has_come(connection: socket.socket) -> bool:
    """Whether there is something to read, be it the end."""
    with contextlib.suppress(OSError):
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return True
    return False


def raised_descriptors() -> int:
    """How many files this process may have open, now that it is as many as the system lets it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else 1 << 20
