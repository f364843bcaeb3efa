"""The worker that carries streams, in a thread of the test: what it may hold open, and what must not end its loop."""

from __future__ import annotations

import json
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from gunicorn.config import Config
from gunicorn.workers.gthread import ThreadWorker

from gateway.gunicorn_worker import SPARE_DESCRIPTORS, CarryingWorker
from tests.platform import Platform, make_platform, wait_until
from tests.served import DONE, HELLO
from tests.unit.upstream import Upstream, event, serving

BODY: dict[str, Any] = {"model": "smol", "messages": HELLO, "stream": True}


@dataclass
class Running:
    worker: CarryingWorker
    platform: Platform
    port: int

    def ask(self, **more: Any) -> bytes:
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        return httpx.post(url, json=BODY | more, headers=self.platform.headers(), timeout=20).content

    def request(self) -> bytes:
        body = json.dumps(BODY).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Authorization: {self.platform.headers()['Authorization']}\r\n\r\n".encode() + body

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with serving(Upstream(pieces=[event("a"), DONE])) as upstream:
        yield upstream


@pytest.fixture
def running(tmp_path: Path, upstream: Upstream) -> Iterator[Running]:
    platform = make_platform(tmp_path, log_level="ERROR")
    platform.deploy("smol", upstream.url)
    config = Config()
    config.set("threads", 8)
    config.set("keepalive", 30)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        worker = CarryingWorker(1, os.getppid(), [listening], None, 30, config, config.logger_class(config))
        # As gunicorn begins, but for signals.
        worker.wsgi = platform.app
        worker.bound(1 << 14)
        worker.tpool, worker.poller = worker.get_thread_pool(), selectors.DefaultSelector()
        worker.method_queue.init()
        worker.prepare()
        thread = threading.Thread(target=ThreadWorker.run, args=(worker,))
        thread.start()
        yield Running(worker, platform, listening.getsockname()[1])
        worker.alive = False
        worker.method_queue.defer(lambda: None)
        thread.join(10)
    platform.store.close()


def read(connection: socket.socket) -> bytes:
    """One stream."""
    data = b""
    while b"0\r\n\r\n" not in data and (piece := connection.recv(65536)):
        data += piece
    return data


def test_a_wake_up_that_brings_nothing_costs_nothing_of_a_request_that_has_begun(running: Running) -> None:
    assert running.ask() == event("a") + DONE
    worker, request = running.worker, running.request()
    with running.connect() as connection:
        connection.sendall(request[:40])
        [conn] = wait_until(lambda: list(worker.pending_conns), 5, "its beginning was read")
        woken = threading.Event()

        def wake() -> None:
            worker.on_pending_socket_readable(conn, conn.sock)
            woken.set()

        worker.method_queue.defer(wake)
        assert woken.wait(5)
        connection.sendall(request[40:])
        assert DONE in read(connection)


@pytest.mark.parametrize("more", [{}, {"tools": []}], ids=["short", "long"])
def test_what_fails_unforeseen_in_one_stream_ends_no_other(
    running: Running, upstream: Upstream, more: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert running.ask() == event("a") + DONE
    counted = event("b", usage={"prompt_tokens": 1, "completion_tokens": -1})  # which no counter takes
    upstream.pieces, upstream.pause_seconds = [event("a"), counted, DONE], 0.1
    with running.connect() as other:
        other.sendall(running.request())
        assert b"200 OK" in other.recv(65536)
        assert running.ask(stream_options={"include_usage": True}, **more) == event("a") + counted + DONE
        wait_until(lambda: "could not be ended properly" in caplog.text, 5, "it is logged")
        assert DONE in read(other)
    upstream.pieces = [event("a"), DONE]
    assert running.ask() == event("a") + DONE


def test_idle_connections_leave_room_for_new_ones_however_few_there_may_be(running: Running) -> None:
    running.worker.bound(SPARE_DESCRIPTORS + 8)
    assert (running.worker.worker_connections, running.worker.max_keepalived) == (4, 2)
    there = [running.connect() for _ in range(4)]
    for connection in there:
        connection.sendall(running.request())
    assert all(DONE in read(connection) for connection in there)
    with running.connect() as another:
        another.sendall(running.request())
        assert DONE in read(another)
    for connection in there:
        connection.close()


def test_as_many_may_be_idle_as_threads_leave_where_descriptors_abound(running: Running) -> None:
    running.worker.bound(1 << 16)
    assert running.worker.max_keepalived == running.worker.cfg.worker_connections - running.worker.cfg.threads
