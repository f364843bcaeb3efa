"""Gunicorn's threaded worker, whose streams need no thread: a request is answered up to its first event in a thread,
then the worker's own loop carries it (gateway/carrying.py).

Told to end (SIGTERM), it goes on taking connections, so that new requests are answered with 503 instead of waiting in
the kernel; open streams get until shortly before `graceful_timeout`, and an error event then.
"""

from __future__ import annotations

import resource
import sys
import time
from concurrent.futures import Future
from datetime import datetime
from typing import Any

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.workers.gthread import TConn, ThreadWorker

from gateway.carrying import Carrier
from gateway.eventstream import EventStream
from gateway.patience import DRAIN, Drain

#: Before gunicorn's own end: for what is said last to reach its client.
LAST_WORDS_SECONDS = 1.0
#: Files, ledger, pools; the rest is for connections: a stream has one to its client and one to its replica.
SPARE_DESCRIPTORS = 256


class CarryingWorker(ThreadWorker):
    """Overrides what gunicorn has overridden itself in its other workers: `handle_request`, and what follows it."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._drain = Drain()
        #: Answers that were begun in a thread and are to be carried on.
        self._handed: dict[TConn, tuple[EventStream, Any]] = {}
        self._carrier: Carrier | None = None

    def init_process(self) -> None:
        allowed = (raised_descriptors() - SPARE_DESCRIPTORS) // 2
        self.worker_connections = min(self.cfg.worker_connections, allowed)
        # It serves until its end.
        super().init_process()

    def run(self) -> None:
        self._carrier = Carrier(self.poller)
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
        """Its head and first events, from this thread: nobody waits for another to wake up."""
        response.send_headers()
        if first := stream.begin():
            response.write(first)
        self._handed[conn] = (stream, response)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        if conn not in self._handed:
            super().finish_request(conn, fs)
            return
        stream, response = self._handed.pop(conn)

        def done(ok: bool) -> None:
            ended: Future[Any] = Future()
            ended.set_result(ok and not response.should_close())
            super(CarryingWorker, self).finish_request(conn, ended)

        assert self._carrier is not None
        self._carrier.carry(stream, conn.sock, response.chunked, done)


def raised_descriptors() -> int:
    """How many files this process may have open, now that it is as many as the system lets it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else 1 << 20
