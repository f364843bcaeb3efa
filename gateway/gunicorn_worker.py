"""Gunicorn's threaded worker, whose streams need no thread: a request is answered up to its first event in a thread,
then the worker's own loop carries it (gateway/carrying.py).

Told to end (SIGTERM), it goes on taking connections, so that new requests are answered with 503 instead of waiting in
the kernel; open streams get until shortly before `graceful_timeout`, and an error event then.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import socket
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.workers.gthread import TConn, ThreadWorker

from gateway.carrying import Carrier, framed
from gateway.eventstream import EventStream
from gateway.patience import DRAIN, Drain
from gateway.threads import Threads

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

    def init_process(self) -> None:
        allowed = (raised_descriptors() - SPARE_DESCRIPTORS) // 2
        self.worker_connections = min(self.cfg.worker_connections, allowed)
        # It serves until its end.
        super().init_process()

    def get_thread_pool(self) -> Threads:
        return Threads(self.cfg.threads)

    def notify(self) -> None:
        if (now := time.monotonic()) - self._notified_at >= NOTIFY_SECONDS:
            self._notified_at = now
            super().notify()

    def enqueue_req(self, conn: TConn) -> None:
        self.tpool.run(partial(self._work, conn))

    def _work(self, conn: TConn) -> None:
        # What came with the connection is not waited for, for which gunicorn makes a selector.
        conn.data_ready = conn.data_ready or conn.initialized or has_come(conn.sock)
        self.method_queue.defer(self.finish_request, conn, Ended(is_kept=self.handle(conn)))

    def run(self) -> None:
        self._carrier = Carrier(self.poller)
        settle()
        super().run()

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self.alive:
            self._drain.ends_at = time.monotonic() + max(0.0, self.cfg.graceful_timeout - LAST_WORDS_SECONDS)
        super().handle_exit(sig, frame)

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled or not self.alive)

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
            if not self.alive or not self.cfg.keepalive or len(self.keepalived_conns) >= self.max_keepalived:
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
