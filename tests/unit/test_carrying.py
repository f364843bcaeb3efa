"""What is carried fails in every way that nobody foresaw: its connection ends, is told of, and the loop goes on."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from gateway.carrying import Carrier
from gateway.exchange import Exchange
from gateway.patience import ShuttingDown
from shared.errors import TunesmithError


class Failing:
    """A source, or an exchange, in which one method fails."""

    seconds = 30.0
    ended = False
    is_sent = is_begun = True
    status = 200

    def __init__(self, connection: socket.socket, method: str):
        self._connection = connection
        self._method = method
        self.is_closed = False

    def fileno(self) -> int:
        return self._connection.fileno()

    def receive(self) -> bytes:
        self._fail("receive")
        return b""

    def cut(self, why: TunesmithError) -> bytes:
        self._fail("cut")
        self.ended = True
        return b"over"

    def silence(self) -> TunesmithError:
        return ShuttingDown()

    def close(self) -> None:
        self.is_closed = True
        self._fail("close")

    def _fail(self, method: str) -> None:
        if method == self._method:
            raise RuntimeError(f"{method} fails")


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    made = [*socket.socketpair(), *socket.socketpair()]
    yield made
    for one in made:
        one.close()


@pytest.mark.parametrize("method", ["receive", "cut", "close"])
def test_a_stream_that_fails_is_closed_and_told_of(
    sockets: list[socket.socket], method: str, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[bool] = []
    with selectors.DefaultSelector() as selector:
        carrier, source = Carrier(selector), Failing(sockets[0], method)
        carrier.carry(source, sockets[2], False, ends.append)
        carrier.cut()
        assert (ends, source.is_closed, len(carrier), len(selector.get_map())) == ([False], True, 0, 0)
    assert f"RuntimeError: {method} fails" in caplog.text


def test_a_request_whose_answer_cannot_be_awaited_is_told_of_with_why(sockets: list[socket.socket]) -> None:
    told: list[tuple[bytes, Exception | None]] = []
    with selectors.DefaultSelector() as selector:
        carrier, exchange = Carrier(selector), cast(Any, Failing(sockets[0], "receive"))
        carrier.wait(cast(Exchange, exchange), sockets[2], 30.0, lambda *what: told.append(what))
        sockets[1].sendall(b"x")
        for key, _ in selector.select(1):
            key.data(key.fileobj)
        assert (len(carrier), len(selector.get_map())) == (0, 0)
    [(first, why)] = told
    assert first == b"" and isinstance(why, RuntimeError)


def test_a_request_whose_client_is_gone_already_is_told_of(sockets: list[socket.socket]) -> None:
    told: list[tuple[bytes, Exception | None]] = []
    sockets[2].close()
    with selectors.DefaultSelector() as selector:
        exchange = cast(Any, Failing(sockets[0], "none"))
        Carrier(selector).wait(exchange, sockets[2], 30.0, lambda *what: told.append(what))
        assert len(told) == 1 and not selector.get_map()
