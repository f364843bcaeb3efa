"""The short way of a stream, under gunicorn: what takes it, what leaves it for the ordinary one, and that nobody can
tell which it was. The replica is a real socket server (tests/unit/upstream.py)."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.otlp import Collector, collecting
from tests.platform import make_platform, serve, wait_until
from tests.served import ANSWER, DONE, HELLO, Served
from tests.unit.upstream import Upstream, closed_port, event, serving

STREAM = event("a") + event("b") + DONE


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Served]:
    platform = make_platform(tmp_path_factory.mktemp("short"), log_level="ERROR", otlp_endpoint=collector.url)
    with serve(platform) as url:
        yield Served(platform, url)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with serving(Upstream(body=json.dumps(ANSWER).encode(), pieces=[event("a"), event("b"), DONE])) as upstream:
        yield upstream


def known(served: Served, name: str, upstream: Upstream) -> None:
    """Deployed, and asked before: the gateway knows it and the key for the next second."""
    served.deploy(name, upstream)
    assert ask(served, {"model": name, "messages": HELLO, "stream": True}).content == STREAM


def ask(served: Served, body: dict[str, Any], **headers: str) -> httpx.Response:
    url = f"{served.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=served.platform.headers() | headers, timeout=20)


def request(served: Served, name: str, *, stream: bool = True, close: bool = False, **more: Any) -> bytes:
    body = json.dumps({"model": name, "messages": HELLO, "stream": stream, **more}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: {served.key}\r\n"
    head += "Connection: close\r\n" if close else ""
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def sent(served: Served, *pieces: bytes, pause_seconds: float = 0.0) -> bytes:
    """All that comes back, up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", served.port), 20) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause_seconds)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def body_of(answer: bytes) -> bytes:
    """Of one answer in chunks."""
    rest, body = answer.split(b"\r\n\r\n", 1)[1], b""
    while rest:
        size, rest = rest.split(b"\r\n", 1)
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


def test_streams_that_wait_for_their_first_token_hold_no_threads(served: Served, upstream: Upstream) -> None:
    known(served, "thinking", upstream)
    before, upstream.thinks_seconds = served.process.num_threads(), 1.0
    with ThreadPoolExecutor(40) as pool:
        body = {"model": "thinking", "messages": HELLO, "stream": True}
        answers = [pool.submit(ask, served, body) for _ in range(40)]
        wait_until(lambda: len(upstream.requests) == 41, 10, "all were sent to the replica")
        assert served.process.num_threads() <= before + 5
    assert {answer.result().content for answer in answers} == {STREAM}


def test_an_answer_looks_the_same_on_either_way(served: Served, upstream: Upstream) -> None:
    known(served, "same", upstream)
    body = {"model": "same", "messages": HELLO, "stream": True}
    short, long = ask(served, body, **{"X-Request-Id": "mine"}), ask(served, body | {"tools": []})
    assert (short.status_code, short.content, short.headers["x-request-id"]) == (200, long.content, "mine")
    assert list(short.headers) == list(long.headers)
    told = {name: value for name, value in short.headers.items() if name not in ("date", "x-request-id")}
    assert told.items() <= dict(long.headers).items()
    seen = {name for name in upstream.requests[-2]["headers"]} ^ {name for name in upstream.requests[-1]["headers"]}
    assert not seen and json.loads(upstream.requests[-2]["body"]) == body


@pytest.mark.parametrize("more", [{}, {"tools": []}], ids=["short", "long"])
def test_a_stream_is_counted_and_traced_the_same_on_either_way(
    served: Served, upstream: Upstream, collector: Collector, more: dict[str, Any]
) -> None:
    name = f"counted-{bool(more)}"
    known(served, name, upstream)
    before, trace = numbers(served, name), f"{time.time_ns():032x}"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "X-Request-Id": "mine"}
    assert ask(served, {"model": name, "messages": HELLO, "stream": True, **more}, **headers).content == STREAM

    asked, replica = wait_until(lambda: len(found := collector.trace(trace)) == 2 and found, 15, "both spans")
    assert (asked.name, asked.parent) == ("POST /v1/chat/completions", "00f067aa0ba902b7")
    told = {"request_id": "mine", "http.response.status_code": 200, "http.route": "/v1/chat/completions"}
    assert told.items() <= asked.attributes.items() and "project_id" in asked.attributes
    assert (replica.parent, replica.events, replica.is_error) == (asked.span_id, ("first token",), False)
    assert upstream.requests[-1]["headers"]["traceparent"] == f"00-{trace}-{replica.span_id}-01"
    changed = {key: after - before.get(key, 0) for key, after in numbers(served, name).items()}
    assert changed == {
        "answers": 1, "answered_tokens": 2, "first_tokens": 1, "in_progress": 0,
        "requests": 1, "requests_in_progress": 0, "short": int(not more), "ordinary": int(bool(more)),
    }  # fmt: skip


def numbers(served: Served, name: str) -> dict[str, float]:
    """What the gateway has counted."""
    page = httpx.get(f"{served.url}/metrics", headers=served.platform.headers()).text
    lines = {
        "answers": f'answers_total{{model="{name}",outcome="answered"}}',
        "answered_tokens": f'answered_tokens_total{{model="{name}"}}',
        "first_tokens": f'time_to_first_token_seconds_count{{model="{name}"}}',
        "in_progress": f'answers_in_progress{{model="{name}"}}',
        "requests": 'http_requests_total{method="POST",route="/v1/chat/completions",status="200"}',
        "requests_in_progress": "http_requests_in_progress",
        "short": 'streams_total{way="short"}',
        "ordinary": 'streams_total{way="ordinary"}',
    }
    told = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return {key: float(told.get(f"tunesmith_{line}", 0)) for key, line in lines.items()}


@pytest.mark.parametrize("cut", ["head", "body", "bytes"])
def test_a_request_may_come_in_pieces(served: Served, upstream: Upstream, cut: str) -> None:
    known(served, f"pieces-{cut}", upstream)
    whole = request(served, f"pieces-{cut}", close=True)
    end = whole.index(b"\r\n\r\n") + 4
    pieces = {
        "head": [whole[:30], whole[30:]],
        "body": [whole[:end], whole[end:-5], whole[-5:]],
        "bytes": [whole[n : n + 1] for n in range(len(whole))],
    }[cut]
    answer = sent(served, *pieces, pause_seconds=0.1 if cut != "bytes" else 0.0)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and body_of(answer) == STREAM


def test_requests_one_after_another_on_one_connection_go_either_way(served: Served, upstream: Upstream) -> None:
    known(served, "turns", upstream)
    with httpx.Client(headers=served.platform.headers(), timeout=20) as client:
        ports = set()
        for more in ({}, {"tools": []}, {}, {}, {"temperature": 9.0}, {}):
            body = {"model": "turns", "messages": HELLO, "stream": True, **more}
            answer = client.post(f"{served.url}/v1/chat/completions", json=body)
            assert answer.status_code == 422 if "temperature" in more else answer.content == STREAM
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr")[1])
    assert len(ports) == 1


def test_requests_that_are_sent_ahead_are_answered_in_order(served: Served, upstream: Upstream) -> None:
    known(served, "ahead", upstream)
    upstream.pause_seconds = 0.1
    first, second = request(served, "ahead"), request(served, "ahead", close=True)
    for pieces in ([first + second], [first, second]):
        answer = sent(served, *pieces, pause_seconds=0.05)
        assert answer.count(b"HTTP/1.1 200 OK") == 2 and answer.count(DONE) == 2


def test_what_a_replica_refuses_is_told_with_its_field(served: Served, upstream: Upstream) -> None:
    known(served, "refusing", upstream)
    refusal = {"error": {"message": "too long for the context", "type": "BadRequestError", "param": "messages"}}
    upstream.pieces, upstream.status, upstream.body = [], 400, json.dumps(refusal).encode()
    with pytest.raises(openai.BadRequestError) as caught:
        served.client.chat.completions.create(model="refusing", messages=HELLO, stream=True)
    assert caught.value.param == "messages" and "too long for the context" in caught.value.message


def test_another_replica_answers_where_one_is_gone(served: Served, upstream: Upstream) -> None:
    known(served, "failing", upstream)
    store, project = served.platform.store, served.platform.store.projects.default().id
    [replica] = store.deployments.get(project, "failing").replicas
    gone = f"http://127.0.0.1:{closed_port()}"
    store.replicas.renew(replica.id, replica.attempt, status="ready", url=gone, api_key="key")
    time.sleep(1.2)  # so old may be what the gateway knows
    failed = ask(served, {"model": "failing", "messages": HELLO, "stream": True})
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "unavailable")
    store.replicas.renew(replica.id, replica.attempt, status="ready", url=upstream.url, api_key="key")
    again = {"model": "failing", "messages": HELLO, "stream": True}
    wait_until(lambda: ask(served, again).is_success, 10, "it is back")


def test_a_replica_that_accepts_no_connection_is_given_up_soon(served: Served, upstream: Upstream) -> None:
    known(served, "full", upstream)
    store, project = served.platform.store, served.platform.store.projects.default().id
    [replica] = store.deployments.get(project, "full").replicas
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # nobody accepts them, and there is no room for more
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        store.replicas.renew(replica.id, replica.attempt, status="ready", url=url, api_key="key")
        time.sleep(1.2)  # so old may be what the gateway knows
        began = time.monotonic()
        answer = ask(served, {"model": "full", "messages": HELLO, "stream": True})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert 1 < time.monotonic() - began < 8


def test_a_client_that_waits_to_be_told_to_go_on_is_told(served: Served, upstream: Upstream) -> None:
    known(served, "polite", upstream)
    whole = request(served, "polite", close=True).replace(b"Host: x", b"Host: x\r\nExpect: 100-continue")
    end = whole.index(b"\r\n\r\n") + 4
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(whole[:end])
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(whole[end:])
        assert body_of(b"".join(iter(lambda: connection.recv(65536), b""))) == STREAM


def test_a_replica_that_breaks_before_its_first_event_is_asked_no_further(served: Served, upstream: Upstream) -> None:
    known(served, "breaking", upstream)
    upstream.pieces, upstream.reply = [], lambda _: None
    answer = ask(served, {"model": "breaking", "messages": HELLO, "stream": True})
    assert answer.status_code == 503 and "went away" in answer.json()["detail"]


def test_a_connection_that_says_nothing_does_not_hold_up_the_end_of_a_gateway(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    platform = make_platform(tmp_path_factory.mktemp("silent"), log_level="ERROR", drain_seconds=30.0)
    with serve(platform) as url, contextlib.ExitStack() as stack:
        served = Served(platform, url)
        for said in (b"", b"POST /v1/chat/comp", request(served, "any")[:-1]):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            connection.sendall(said)
        time.sleep(0.3)
        process = served.process
        process.parent().terminate()
        process.wait(8)
