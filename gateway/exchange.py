"""One request to one replica and its answer, over a connection that is kept for the next (gateway/connections.py).

What waits does so in gateway/patience.py, or not at all (`push`, `receive`), for a selector. Closing an answer before
its end closes its connection, which is how a replica learns that nobody wants the rest.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

from gateway import connections
from gateway.connections import Connections
from gateway.http1 import Malformed, Reader
from gateway.patience import Client

#: One that takes longer to read what it is sent hangs.
SEND_SECONDS = 30.0
PIECE_BYTES = 1 << 16


class Lost(Exception):
    """The connection broke, or what came over it is no answer."""


class Stale(Exception):
    """Over this connection the request did not come to its replica; over a new one it may."""


class Exchange:
    """`status` and `content_type` are there after `head`; the body follows piece by piece."""

    def __init__(
        self,
        url: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        client: Client,
        seconds: float,
        kept: Connections | None = None,
        waits: bool = True,
    ):
        """Sends the request. `seconds`: the longest silence of the replica. `kept`: where connections come from and go
        to; None: one of its own. `waits`: until it is sent; else `push` sends on. Raises Lost, and Stale where nothing
        may be waited for."""
        self._url = url
        self._client = client
        self._seconds = seconds
        self._kept = Connections() if kept is None else kept
        self._reader = Reader()
        self._unread: list[bytes] = []
        self._is_closed = False
        self._waits = waits
        fields = {"Host": connections.place(url)[2], "Content-Length": str(len(body)), **headers}
        self._request = _head(path, fields) + body
        self._num_sent = 0
        #: None: it was made for this request.
        self._used = self._kept.take(url)
        try:
            self._socket = self._used or self._opened()
            self._send()
        except OSError as error:
            self.close()
            raise Lost(_told(error)) from error

    @property
    def status(self) -> int:
        return self._reader.status

    @property
    def content_type(self) -> str:
        return self._reader.content_type

    @property
    def ended(self) -> bool:
        """Whether the whole answer was read."""
        return self._reader.ended

    @property
    def is_sent(self) -> bool:
        return self._num_sent == len(self._request)

    @property
    def is_begun(self) -> bool:
        """Whether its replica has accepted the connection."""
        return self._num_sent > 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Ends the generation if it is still running."""
        if self._is_closed or not hasattr(self, "_socket"):
            return
        self._is_closed = True
        if self.ended and self._reader.keeps_alive:
            self._kept.give_back(self._url, self._socket)
        else:
            self._socket.close()

    def head(self) -> None:
        """Waits for the status. Raises Lost, and what `Client.wait` raises."""
        while not self.status:
            self._wait()

    def read(self) -> bytes:
        """Waits for the next piece of the body; empty at its end. Raises as `head`."""
        while not self._unread and not self.ended:
            self._wait()
        return self._taken()

    def push(self) -> None:
        """Sends on, without waiting. Raises Lost, Stale."""
        try:
            with contextlib.suppress(BlockingIOError):
                self._num_sent += self._socket.send(memoryview(self._request)[self._num_sent :])
        except OSError as error:
            raise (Stale if self._used else Lost)(_told(error)) from error

    def receive(self) -> bytes:
        """What has come of the body, without waiting; empty when that is nothing. Raises Lost, Stale."""
        if not self.ended:
            with contextlib.suppress(BlockingIOError):
                self._take()
        return self._taken()

    def _taken(self) -> bytes:
        taken, self._unread = b"".join(self._unread), []
        return taken

    def _opened(self) -> socket.socket:
        """Raises OSError, Stale."""
        if self._waits:
            return connections.connect(self._url)
        if (made := connections.begin(self._url)) is None:
            raise Stale("its host has to be looked for")
        return made

    def _send(self) -> None:
        """Raises OSError. A connection that breaks meanwhile shows when the answer is read, which may be there."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._num_sent = 0
            with contextlib.suppress(BlockingIOError):
                self._num_sent = self._socket.send(self._request)
            if self._waits and not self.is_sent:
                self._socket.settimeout(SEND_SECONDS)
                self._socket.sendall(memoryview(self._request)[self._num_sent :])
                self._socket.setblocking(False)
                self._num_sent = len(self._request)

    def _wait(self) -> None:
        self._client.wait(self._socket, self._seconds)
        with contextlib.suppress(BlockingIOError):
            self._take()

    def _take(self) -> None:
        """One piece off the socket. Raises Lost, BlockingIOError."""
        try:
            data = self._socket.recv(PIECE_BYTES)
            if not data and self._used and not self.status:
                raise ConnectionResetError("it closed the idle connection")
            if body := self._reader.feed(data):
                self._unread.append(body)
        except BlockingIOError:
            raise
        except (OSError, Malformed) as error:
            if not (isinstance(error, OSError) and self._used and not self.status):
                raise Lost(str(error) if isinstance(error, Malformed) else _told(error)) from error
            self._again()

    def _again(self) -> None:
        """Its server had closed the idle connection before the request came: once more over a new one."""
        if not self._waits:
            raise Stale("its server had closed the idle connection")
        self._socket.close()
        self._used = None
        try:
            self._socket = connections.connect(self._url)
            self._send()
        except OSError as error:
            raise Lost(_told(error)) from error


def _head(path: str, fields: Mapping[str, str]) -> bytes:
    """Raises Lost where a value would end its line."""
    if not (told := "".join(fields.values())).isascii() or not told.isprintable():
        raise Lost("a header of the request has characters that no header may have")
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode()


def _told(error: OSError) -> str:
    return f"{type(error).__name__}: {error}"
