"""A tiny HTTP server on a real socket that answers as a replica of vLLM does, well or badly. For tests of the proxy."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def event(text: str, **extra: Any) -> bytes:
    chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}], **extra}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


@dataclass
class Upstream:
    """What it answers next, and what it saw."""

    status: int = 200
    body: bytes = b"{}"
    #: Status and body of single paths.
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    #: Pieces of a stream, each one write; an int closes the socket there without a proper end.
    pieces: list[bytes | int] = field(default_factory=list)
    #: Pause before each piece after the first, seconds.
    pause_seconds: float = 0.0
    #: Pause before the answer, seconds: the other side's leaving is noticed meanwhile.
    thinks_seconds: float = 0.0
    #: Pieces that were written.
    num_sent: int = 0
    port: int = 0
    #: What it answers to a request's body instead: status and body; None: it breaks the connection.
    reply: Callable[[dict[str, Any]], tuple[int, bytes] | None] | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    #: Set when the other side closed the connection in mid-stream, or before the answer.
    hung_up: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def seen(self, handler: BaseHTTPRequestHandler) -> bytes:
        """Its body."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        self.requests.append({"path": handler.path, "headers": dict(handler.headers), "body": body})
        return body


@contextmanager
def serving(upstream: Upstream) -> Iterator[Upstream]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = upstream.seen(self)
            if left(self.connection, upstream.thinks_seconds):
                upstream.hung_up.set()
                self.close_connection = True
            elif upstream.pieces:
                stream(self, upstream)
            elif upstream.reply is None or not body:
                whole(self, *upstream.answers.get(self.path, (upstream.status, upstream.body)))
            elif (replied := upstream.reply(json.loads(body))) is not None:
                whole(self, *replied)
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    upstream.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield upstream
    finally:
        server.shutdown()
        server.server_close()


def whole(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def stream(handler: BaseHTTPRequestHandler, upstream: Upstream) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    try:
        for piece in upstream.pieces:
            if isinstance(piece, int):
                handler.connection.shutdown(socket.SHUT_RDWR)
                handler.close_connection = True
                return
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.flush()
            upstream.num_sent += 1
            if left(handler.connection, upstream.pause_seconds):
                raise ConnectionResetError
        handler.wfile.write(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        upstream.hung_up.set()


def left(connection: socket.socket, seconds: float) -> bool:
    """Whether the other side closes the connection within that time."""
    return bool(seconds and select.select([connection], [], [], seconds)[0] and not connection.recv(1, socket.MSG_PEEK))


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
