"""One request to one replica and its answer, over a socket of its own: HTTP/1.1 as h11 reads it.

A connection is opened for each: on our own network that takes a fraction of a millisecond, and none that its server has
just closed is ever used. What waits does so in gateway/patience.py, or not at all (`receive`), for a selector.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

import h11

from gateway.patience import Client

#: A replica is on our own network: one that takes longer to accept is gone.
CONNECT_SECONDS = 2.0
#: One that takes longer to read what it is sent hangs.
SEND_SECONDS = 30.0
PIECE_BYTES = 1 << 16


class Lost(Exception):
    """The connection broke, or what came over it is no answer."""


class Exchange:
    """`status` and `content_type` are there after `head`; the body follows piece by piece."""

    def __init__(self, url: str, path: str, body: bytes, headers: Mapping[str, str], client: Client, seconds: float):
        """Sends the request. `seconds`: the longest silence of the replica. Raises Lost."""
        place = urlsplit(url)
        self.status = 0
        self.content_type = ""
        #: Whether the whole answer was read.
        self.ended = False
        self._client = client
        self._seconds = seconds
        self._http = h11.Connection(h11.CLIENT)
        self._unread: list[bytes] = []
        fields = {"Host": place.netloc, "Content-Length": str(len(body)), "Connection": "close", **headers}
        head = self._http.send(h11.Request(method="POST", target=path, headers=list(fields.items())))
        self._http.send_with_data_passthrough(h11.Data(data=body))
        self._http.send(h11.EndOfMessage())
        try:
            self._socket = socket.create_connection((str(place.hostname), place.port or 80), CONNECT_SECONDS)
            # An answer that is there before all is sent is read below; a broken connection shows there as well.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._socket.settimeout(SEND_SECONDS)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._socket.sendall((head or b"") + body)
            # Waits are for two sockets at once, or none.
            self._socket.setblocking(False)
        except OSError as error:
            self.close()
            raise Lost(f"{type(error).__name__}: {error}") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Ends the generation if it is still running."""
        if hasattr(self, "_socket"):
            self._socket.close()

    def head(self) -> None:
        """Waits for the status. Raises Lost, and what `Client.wait` raises."""
        while not self.status and not self.ended:
            self._wait()
        if not self.status:
            raise Lost("it closed the connection")

    def read(self) -> bytes:
        """Waits for the next piece of the body; empty at its end. Raises as `head`."""
        while not self._unread and not self.ended:
            self._wait()
        return self._taken()

    def receive(self) -> bytes:
        """What has come of the body, without waiting; empty when that is nothing. Raises Lost."""
        if not self.ended:
            with contextlib.suppress(BlockingIOError):
                self._take()
        return self._taken()

    def _taken(self) -> bytes:
        taken, self._unread = b"".join(self._unread), []
        return taken

    def _wait(self) -> None:
        self._client.wait(self._socket, self._seconds)
        with contextlib.suppress(BlockingIOError):
            self._take()

    def _take(self) -> None:
        """One piece off the socket. Raises Lost, BlockingIOError."""
        try:
            self._http.receive_data(self._socket.recv(PIECE_BYTES))
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    self.status = event.status_code
                    self.content_type = dict(event.headers).get(b"content-type", b"application/json").decode()
                elif isinstance(event, h11.Data):
                    self._unread.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    self.ended = True
                    return
                elif not isinstance(event, h11.InformationalResponse):
                    raise Lost("it closed the connection")
        except BlockingIOError:
            raise
        except (OSError, h11.RemoteProtocolError) as error:
            raise Lost(f"{type(error).__name__}: {error}") from error
