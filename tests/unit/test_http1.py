"""Answers in HTTP/1.1 are read as they come, whatever the pieces, and what is none is refused."""

from __future__ import annotations

import socket

import pytest

from gateway.connections import IDLE_SECONDS, MOST_IDLE, Connections
from gateway.exchange import Exchange
from gateway.http1 import Malformed, Reader, asked
from gateway.patience import Client
from tests.unit.upstream import Upstream, serving

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n1a;x=1\r\n 123456789 123456789 12345\r\n0\r\n\r\n"
INFORMED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}"


def read(pieces: list[bytes]) -> tuple[bytes, Reader]:
    reader = Reader()
    return b"".join(reader.feed(piece) for piece in pieces), reader


@pytest.mark.parametrize("length", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("answer", "status", "body", "keeps_alive"),
    [
        (CHUNKED, 200, b"data: 123456789 123456789 12345", True),
        (CHUNKED[:-2] + b"Trailer: 1\r\n\r\n", 200, b"data: 123456789 123456789 12345", True),
        (INFORMED, 404, b"{}", True),
        (HEAD + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc", 200, b"abc", False),
        (HEAD + b"Content-Length: 0\r\n\r\n", 200, b"", True),
        (b"HTTP/1.0 200\r\nContent-Length: 1\r\n\r\na", 200, b"a", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    ],
)
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(
    answer: bytes, status: int, body: bytes, keeps_alive: bool, length: int
) -> None:
    told, reader = read([answer[at : at + length] for at in range(0, len(answer), length)])
    assert (told, reader.status, reader.ended, reader.keeps_alive) == (body, status, True, keeps_alive)


def test_a_body_of_no_length_ends_with_its_connection_and_all_others_do_not() -> None:
    told, reader = read([HEAD + b"\r\nab", b"c", b""])
    assert (told, reader.ended, reader.keeps_alive, reader.content_type) == (b"abc", True, False, "text/event-stream")
    for cut in (b"", HEAD, CHUNKED[:-4], HEAD + b"Content-Length: 3\r\n\r\nab"):
        with pytest.raises(Malformed, match="closed the connection"):
            read([cut, b""] if cut else [b""])


@pytest.mark.parametrize(
    "wrong",
    [
        b"SSH-2.0-server\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        HEAD + b" folded: 1\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        HEAD + b"x" * 70_000,
    ],
)
def test_what_is_no_answer_is_refused(wrong: bytes) -> None:
    with pytest.raises(Malformed):
        read([wrong])


def test_a_connection_with_more_than_was_asked_for_carries_no_other_request() -> None:
    for more in (b"HTTP/1.1 200 OK\r\n", HEAD + b"Content-Length: 2\r\n\r\nno"):
        for told, reader in (read([INFORMED + more]), read([INFORMED, more])):
            assert (told, reader.status, reader.keeps_alive) == (b"{}", 404, False)


def ask(url: str, kept: Connections) -> tuple[int, bytes]:
    exchange = Exchange(url, "/v1/chat/completions", b"{}", {}, Client(), 5.0, kept)
    try:
        exchange.head()
        return exchange.status, b"".join(iter(exchange.read, b""))
    finally:
        exchange.close()


def test_a_connection_is_used_again_and_one_that_was_closed_meanwhile_is_replaced() -> None:
    kept = Connections()
    with serving(Upstream(body=b'{"a": 1}')) as upstream:
        assert ask(upstream.url, kept) == (200, b'{"a": 1}') and len(kept) == 1
        held = kept.take(upstream.url)
        assert held is not None
        kept.give_back(upstream.url, held)
        assert ask(upstream.url, kept)[0] == 200 and kept.take(upstream.url) is held
        held.shutdown(socket.SHUT_RDWR)
        kept.give_back(upstream.url, held)
        assert ask(upstream.url, kept) == (200, b'{"a": 1}')
        assert len(upstream.requests) == 3 and kept.take(upstream.url) is not held


def test_an_answer_that_was_not_read_to_its_end_ends_with_its_connection() -> None:
    kept = Connections()
    with serving(Upstream(pieces=[b"data: a\n\n"] * 50, pause_seconds=0.1)) as upstream:
        exchange = Exchange(upstream.url, "/v1/chat/completions", b"{}", {}, Client(), 5.0, kept)
        exchange.read()
        exchange.close()
        assert upstream.hung_up.wait(5.0) and len(kept) == 0


def test_idle_connections_are_closed_after_a_while_and_are_not_without_number() -> None:
    now, pairs = [0.0], [socket.socketpair() for _ in range(3)]
    kept = Connections(clock=lambda: now[0])
    kept.give_back("http://a", pairs[0][0])
    now[0] += IDLE_SECONDS + 1
    assert kept.take("http://a") is None and pairs[0][0].fileno() == -1
    for _ in range(MOST_IDLE + 1):
        kept.give_back("http://a", pairs[1][0])
    assert len(kept) == MOST_IDLE and kept.take("http://b") is None
    for pair in pairs:
        for end in pair:
            end.close()


REQUEST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def test_a_request_is_whole_when_its_body_is() -> None:
    for length in range(1, len(REQUEST) + 1):
        found = asked(REQUEST[:length])
        assert found is not None and found.is_whole == (length == len(REQUEST))
        assert found.has_head == (length >= len(REQUEST) - 2)
    assert (found.method, found.target, found.body) == ("POST", "/v1/completions", b"{}")
    assert found.headers == {"host": "x", "content-type": "application/json", "content-length": "2"}
    assert found.keeps_alive


@pytest.mark.parametrize(
    "data",
    [
        REQUEST + REQUEST,
        REQUEST.replace(b"Host", b"Content-Length: 2\r\nHost"),
        REQUEST.replace(b"Host: x", b"Host: x\r\nHost: y"),
        REQUEST.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked"),
        REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"),
        REQUEST.replace(b"Host: x", b"Connection: Upgrade\r\nUpgrade: h2c"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n no colon\r\n\r\n",
    ],
)
def test_what_is_not_one_plain_request_is_left_to_others(data: bytes) -> None:
    assert asked(data) is None
