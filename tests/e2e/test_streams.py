"""Answers under gunicorn, as it is run: carried by its loop, with clients that leave, sleep or send too much, replicas
that break, and a gateway that is told to end. The replica is a real socket server (tests/unit/upstream.py)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import psutil
import pytest

from gateway.replicas import CACHE_SECONDS
from shared.tongues import Text
from tests.platform import make_platform, serve, wait_until
from tests.served import ANSWER, DONE, HELLO, Served
from tests.unit.upstream import Upstream, event, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    platform = make_platform(tmp_path_factory.mktemp("streams"), log_level="ERROR")
    with serve(platform) as url:
        yield Served(platform, url)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with serving(Upstream(body=json.dumps(ANSWER).encode())) as upstream:
        yield upstream


def test_streams_pass_unchanged_and_their_connection_is_used_again(served: Served, upstream: Upstream) -> None:
    upstream.pieces, upstream.pause_seconds = [event("a"), event("b"), DONE], 0.05
    served.deploy("plain", upstream)
    body = {"model": "plain", "messages": HELLO, "stream": True}
    with httpx.Client(base_url=served.url, headers=served.platform.headers()) as client:
        ports = set()
        for _ in range(3):
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                assert response.read() == event("a") + event("b") + DONE
                ports.add(response.extensions["network_stream"].get_extra_info("client_addr")[1])
        upstream.pieces = []
        assert client.post("/v1/chat/completions", json=body | {"stream": False}).json() == ANSWER
    assert len(ports) == 1


def test_many_streams_at_once_each_get_their_own_events(served: Served, upstream: Upstream) -> None:
    upstream.pieces, upstream.pause_seconds = [*(event(str(n)) for n in range(20)), DONE], 0.01
    served.deploy("many", upstream)

    def read(_: int) -> str:
        stream = served.client.chat.completions.create(model="many", messages=HELLO, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(read, range(32))) == {"".join(str(n) for n in range(20))}


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_before_the_first_token_ends_the_generation(
    served: Served, upstream: Upstream, stream: bool
) -> None:
    upstream.thinks_seconds = 20
    served.deploy(f"thinking-{stream}", upstream)
    with served.asking(f"thinking-{stream}", stream=stream):
        wait_until(lambda: upstream.requests, 5, "the replica was asked")
    assert upstream.hung_up.wait(2)


def test_a_client_that_leaves_between_two_tokens_ends_the_generation(served: Served, upstream: Upstream) -> None:
    upstream.pieces, upstream.pause_seconds = [event("a"), event("b"), DONE], 20
    served.deploy("leaving", upstream)
    with served.asking("leaving") as connection:
        assert b"200" in connection.recv(4096)
    assert upstream.hung_up.wait(2)


def test_a_client_that_reads_nothing_holds_up_its_replica_and_gets_everything_later(
    served: Served, upstream: Upstream
) -> None:
    big = event("x" * 200_000)
    upstream.pieces = [*[big] * 150, DONE]
    served.deploy("slow", upstream)
    with served.asking("slow") as connection:
        time.sleep(1.0)
        held = upstream.num_sent
        assert held < 100  # of 30 MB the sockets hold some, the gateway no more than one piece beyond its limit
        time.sleep(0.3)
        assert upstream.num_sent == held
        received = bytearray()
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(1 << 20)
    assert received.count(b"x" * 60_000) == 150 * 3


def test_a_replica_that_breaks_in_mid_stream_raises_in_the_client(served: Served, upstream: Upstream) -> None:
    upstream.pieces, upstream.pause_seconds = [event("he"), 0], 0.05
    served.deploy("breaking", upstream)
    with pytest.raises(openai.APIError) as caught:
        list(served.client.chat.completions.create(model="breaking", messages=HELLO, stream=True))
    assert caught.value.code == "upstream_lost"


@pytest.mark.parametrize("stream", [True, False])
def test_a_replica_that_falls_silent_is_given_up(served: Served, upstream: Upstream, stream: bool) -> None:
    upstream.pieces = [event("a"), event("b")] if stream else []
    upstream.pause_seconds, upstream.thinks_seconds = 30, 0 if stream else 30
    served.deploy(f"silent-{stream}", upstream, request_timeout_seconds=1)
    began = time.monotonic()
    with pytest.raises(openai.APIError) as caught:
        list(served.client.chat.completions.create(model=f"silent-{stream}", messages=HELLO, stream=stream))
    assert caught.value.code == "upstream_timeout"
    assert time.monotonic() - began < 6


def test_more_than_may_be_in_flight_is_told_when_to_come_again(served: Served, upstream: Upstream) -> None:
    upstream.pieces, upstream.pause_seconds = [event("a"), event("b"), DONE], 1.0
    served.deploy("full", upstream, max_concurrent_requests=2)
    with served.asking("full"), served.asking("full"):
        wait_until(lambda: len(upstream.requests) == 2, 5, "both are in flight")
        with pytest.raises(openai.RateLimitError) as caught:
            served.client.chat.completions.create(model="full", messages=HELLO)
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    assert len(upstream.requests) == 2
    patient = served.client.with_options(max_retries=5)
    assert list(patient.chat.completions.create(model="full", messages=HELLO, stream=True))


@pytest.mark.parametrize("size_mib", [6, 10])
def test_a_body_of_megabytes_is_answered_and_a_larger_one_refused(
    served: Served, upstream: Upstream, size_mib: int
) -> None:
    served.deploy(f"large-{size_mib}", upstream)
    messages = [{"role": "user", "content": "x" * (size_mib << 20)}]
    body = {"model": f"large-{size_mib}", "messages": messages}
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, headers=served.platform.headers(), timeout=20)
    if size_mib == 6:
        assert answer.json() == ANSWER
        assert json.loads(upstream.requests[0]["body"]) == body
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_a_gateway_that_shall_end_finishes_what_it_can_and_refuses_what_is_new(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    platform = make_platform(tmp_path_factory.mktemp("draining"), log_level="ERROR", drain_seconds=3.0)
    short = Upstream(pieces=[event("a"), event("b"), DONE], pause_seconds=1.0)
    long = Upstream(pieces=[event("x")] * 500, pause_seconds=0.1)
    with serve(platform) as url, serving(short), serving(long):
        served = Served(platform, url)
        served.deploy("short", short)
        served.deploy("long", long)
        told: dict[str, list[str] | openai.APIError] = {}

        def read(name: str) -> None:
            try:
                stream = served.client.chat.completions.create(model=name, messages=HELLO, stream=True)
                told[name] = [chunk.choices[0].delta.content or "" for chunk in stream]
            except openai.APIError as error:
                told[name] = error

        readers = [threading.Thread(target=read, args=(name,)) for name in ("short", "long")]
        for reader in readers:
            reader.start()
        wait_until(lambda: short.num_sent and long.num_sent, 5, "both stream")
        [gunicorn] = [
            one.pid for one in psutil.net_connections() if one.status == "LISTEN" and one.laddr.port == served.port
        ]
        psutil.Process(gunicorn).parent().terminate()
        time.sleep(0.5)
        with pytest.raises(openai.InternalServerError, match="shutting down"):
            served.client.chat.completions.create(model="short", messages=HELLO)
        for reader in readers:
            reader.join(8)
    assert told["short"] == ["a", "b"]
    assert isinstance(told["long"], openai.APIError) and told["long"].code == "shutting_down"
    assert long.hung_up.wait(2)


def test_a_request_wakes_a_deployment_that_rests_and_is_answered_when_it_is_ready(
    served: Served, upstream: Upstream
) -> None:
    served.deploy("resting", upstream, idle_timeout_seconds=60, wake_timeout_seconds=20)
    store, project = served.platform.store, served.platform.store.projects.default().id
    deployment = store.deployments.get(project, "resting")
    text = Text("nobody asks")
    assert store.deployments.rescale(deployment.id, before=None, num_wanted=0, type="idle", why=text)
    [before] = store.deployments.get(project, "resting").replicas
    store.replicas.release(before.id, before.attempt)
    time.sleep(CACHE_SECONDS)  # so old may be what the gateway knows of ready replicas
    assert store.deployments.get(project, "resting").status == "idle"

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(served.client.chat.completions.create, model="resting", messages=HELLO)
        replica = wait_until(lambda: store.replicas.claim_next("worker", None), 10, "a replica is wanted again")
        assert not asked.done()
        store.replicas.renew(replica.id, replica.attempt, status="ready", url=upstream.url, api_key="key")
        assert asked.result(10).choices[0].message.content == "hi"


def test_a_request_to_a_deployment_that_does_not_wake_up_in_time_is_told_to_come_again(
    served: Served, upstream: Upstream
) -> None:
    served.deploy("dozing", upstream, idle_timeout_seconds=60, wake_timeout_seconds=1)
    store, project = served.platform.store, served.platform.store.projects.default().id
    deployment = store.deployments.get(project, "dozing")
    store.deployments.rescale(deployment.id, before=None, num_wanted=0, type="idle", why=Text("nobody asks"))
    [before] = store.deployments.get(project, "dozing").replicas
    store.replicas.release(before.id, before.attempt)
    time.sleep(CACHE_SECONDS)
    with pytest.raises(openai.InternalServerError) as caught:
        served.client.chat.completions.create(model="dozing", messages=HELLO)
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) > 0
