"""HTTP/1.1 as its bytes come: an answer piece by piece (`Reader`: status, type, and its body), and a request that is
there as a whole (`asked`).

Read by llhttp, Node's parser: it is done for every token, and costs half a microsecond a chunk where h11 takes
forty. Answers are those of replicas, which are ours; requests only plain ones, all others are read by gunicorn. Knows
no sockets (gateway/exchange.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

#: Longest head of an answer.
MAX_HEAD_BYTES = 1 << 16


class Malformed(Exception):
    """What came is no answer in HTTP/1.1."""


class Reader:
    """`status` and `content_type` are there when its head was fed, `ended` is true when its body was."""

    def __init__(self) -> None:
        self.status = 0
        self.content_type = "application/json"
        self.ended = False
        #: Whether the connection may carry another request after this answer.
        self.keeps_alive = False
        self._parser = HttpResponseParser(self)
        self._body: list[bytes] = []
        #: Whether the answer says where its body ends; if not, the connection's end is that of the body, too.
        self._has_end = False
        self._num_head_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """What of the body is in `data`; empty `data`: the connection has ended. Raises Malformed."""
        if not data:
            self._close()
            return b""
        if self.ended:
            # Nobody asked for it: what comes next on this connection could be taken for another answer.
            self.keeps_alive = False
            return b""
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            raise Malformed(f"its answer is not HTTP/1.1: {error}") from error
        if not self.status:
            self._num_head_bytes += len(data)
            if self._num_head_bytes > MAX_HEAD_BYTES:
                raise Malformed("its head has no end")
        body, self._body = b"".join(self._body), []
        return body

    def _close(self) -> None:
        self.keeps_alive = False
        if not self.ended and (not self.status or self._has_end):
            raise Malformed("it closed the connection")
        self.ended = True

    # What llhttp calls; of a second answer, for which nobody asked, nothing is kept.

    def on_message_begin(self) -> None:
        self.keeps_alive = False
        if not self.ended:
            self.content_type, self._has_end = "application/json", False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer
        lower = name.lower()
        if lower == b"content-type":
            self.content_type = value.decode("latin-1")
        elif lower in (b"content-length", b"transfer-encoding"):
            self._has_end = True

    def on_headers_complete(self) -> None:
        if not self.ended and (status := self._parser.get_status_code()) >= 200:
            self.status = status  # lower ones only inform, and another answer follows

    def on_body(self, body: bytes) -> None:
        if not self.ended:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self.status and not self.ended:
            self.ended, self.keeps_alive = True, self._parser.should_keep_alive()


@dataclass(kw_only=True)
class Asked:
    """What has come of a request."""

    method: str = ""
    #: As it was sent: nothing in it is decoded.
    target: str = ""
    #: By their names in lower case.
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    has_head: bool = False
    is_whole: bool = False
    #: Whether the connection may carry another request after it.
    keeps_alive: bool = False


def asked(data: bytes) -> Asked | None:
    """The one request that `data` is, or begins; None: it is not plain, or more than one."""
    listener = _Listener()
    try:
        listener.parser.feed_data(data)
    except (HttpParserError, HttpParserUpgrade):
        return None
    return listener.found if listener.is_plain else None


class _Listener:
    """What llhttp calls."""

    def __init__(self) -> None:
        self.found = Asked()
        self.is_plain = True
        self.parser = HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.is_plain = self.is_plain and not self.found.has_head

    def on_url(self, url: bytes) -> None:
        self.found.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.decode("latin-1").lower()
        # What is said twice, or in pieces, is for whoever knows what that means.
        self.is_plain = self.is_plain and lower not in self.found.headers and lower != "transfer-encoding"
        self.found.headers[lower] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.found.has_head, self.found.method = True, self.parser.get_method().decode()
        self.is_plain = self.is_plain and self.parser.get_http_version() == "1.1"

    def on_body(self, body: bytes) -> None:
        self.found.body += body

    def on_message_complete(self) -> None:
        self.found.is_whole, self.found.keeps_alive = True, self.parser.should_keep_alive()
