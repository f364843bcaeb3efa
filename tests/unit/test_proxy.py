"""The proxy against real sockets: bytes pass unchanged, broken replicas are left out, no stream ends silently."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.call import Answer, Call
from gateway.eventstream import EventStream, Usage
from gateway.proxy import NoReplica, Proxy
from gateway.replicas import AGAIN_SECONDS, CACHE_SECONDS, EJECT_SECONDS, Balancer, Directory
from shared.answer_room import TOKENIZE, Room
from shared.errors import InvalidRequest, Unavailable
from shared.routing import Endpoint, Fleet
from tests.platform import wait_until
from tests.unit.fleet import deployment, replica
from tests.unit.upstream import Upstream, closed_port, event, serving

MODEL = "ft:smol:local::12345678"
DONE = b"data: [DONE]\n\n"


@dataclass
class Recorder:
    """A meter that keeps what it was told."""

    first: list[float] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)

    #: Requests that are not at their end.
    num_open: int = 0
    outcomes: list[str] = field(default_factory=list)
    #: Tokens of each stream.
    streamed_tokens: list[int] = field(default_factory=list)

    def began(self, model: str) -> None:
        self.num_open += 1

    def streamed(self, model: str, seconds: float, num_tokens: int) -> None:
        self.streamed_tokens.append(num_tokens)

    def ended(self, model: str, outcome: str, seconds: float) -> None:
        self.num_open -= 1
        self.outcomes.append(outcome)

    def first_token(self, model: str, seconds: float) -> None:
        self.first.append(seconds)

    def finished(self, model: str, usage: Usage) -> None:
        self.usages.append(usage)


@pytest.fixture
def meter() -> Recorder:
    return Recorder()


def at(id: str, url: str, load: float = 0.0) -> Endpoint:
    return Endpoint(id=id, url=url, api_key="secret", served_name=MODEL, load=load)


def proxy_to(meter: Recorder, *there: Endpoint, name: str = MODEL) -> Proxy:
    replicas = [replica(one.id, one.url, one.served_name, load=one.load) for one in there]
    return Proxy(Directory(lambda project_id: Fleet(deployments=[deployment(name, replicas)])), meter)


def call(*, stream: bool = False, include_usage: bool = False, body: bytes = b"{}", model: str = MODEL) -> Call:
    return Call(
        project_id="proj-1", model=model, path="/v1/chat/completions", body=body, stream=stream,
        include_usage=include_usage, request_id="req_1",
    )  # fmt: skip


def streamed(answer: Answer) -> bytes:
    assert isinstance(answer.body, EventStream)
    return b"".join(answer.body)


def test_the_body_reaches_the_replica_unchanged_and_with_its_key(meter: Recorder) -> None:
    answer_body = b'{"usage":{"prompt_tokens":7,"completion_tokens":3},  "model": "x"}'
    with serving(Upstream(body=answer_body)) as upstream:
        answer = proxy_to(meter, at("a", upstream.url)).send(call(body=b'{ "top_k" : 5}'))

    assert answer.body == answer_body
    [seen] = upstream.requests
    assert seen["path"] == "/v1/chat/completions"
    assert seen["body"] == b'{ "top_k" : 5}'
    assert seen["headers"]["Authorization"] == "Bearer secret"
    assert seen["headers"]["X-Request-Id"] == "req_1"
    assert meter.usages == [Usage(prompt_tokens=7, completion_tokens=3)]
    assert (meter.outcomes, meter.num_open) == (["answered"], 0)


def test_the_model_is_asked_for_under_the_name_that_its_replica_knows(meter: Recorder) -> None:
    with serving(Upstream(body=b"{}")) as upstream:
        proxy = proxy_to(meter, at("a", upstream.url), name="bot")
        proxy.send(call(body=b'{"model": "bot", "top_k": 5}', model="bot"))
    assert json.loads(upstream.requests[0]["body"]) == {"model": MODEL, "top_k": 5}


def test_a_stream_passes_unchanged_and_its_events_are_counted(meter: Recorder) -> None:
    pieces: list[bytes | int] = [event("a"), event("b"), event("c"), DONE]
    with serving(Upstream(pieces=pieces)) as upstream:
        proxy = proxy_to(meter, at("a", upstream.url))
        answer = proxy.send(call(stream=True))
        assert proxy.balancer.num_in_flight("a") == 1
        body = streamed(answer)

    assert body == event("a") + event("b") + event("c") + DONE
    assert answer.content_type == "text/event-stream; charset=utf-8"
    assert meter.usages == [Usage(completion_tokens=3)]
    assert len(meter.first) == 1
    assert (meter.outcomes, meter.num_open, meter.streamed_tokens) == (["answered"], 0, [3])
    assert proxy.balancer.num_in_flight("a") == 0


def test_events_cut_anywhere_by_the_network_arrive_whole(meter: Recorder) -> None:
    whole = event("one") + event("two") + DONE
    pieces: list[bytes | int] = [whole[i : i + 7] for i in range(0, len(whole), 7)]
    with serving(Upstream(pieces=pieces)) as upstream:
        answer = proxy_to(meter, at("a", upstream.url)).send(call(stream=True))
        assert isinstance(answer.body, EventStream)
        parts = list(answer.body)

    assert b"".join(parts) == whole
    assert all(part.startswith(b"data: ") and part.endswith(b"\n\n") for part in parts)


def test_usage_is_read_from_the_stream_where_the_client_asked_for_it(meter: Recorder) -> None:
    last = event("", usage={"prompt_tokens": 11, "completion_tokens": 42, "total_tokens": 53})
    with serving(Upstream(pieces=[event("a", usage=None), last, DONE])) as upstream:
        streamed(proxy_to(meter, at("a", upstream.url)).send(call(stream=True, include_usage=True)))

    assert meter.usages == [Usage(prompt_tokens=11, completion_tokens=42)]


@pytest.mark.parametrize("half", [b"", b'data: {"choices":[{"de'])
def test_a_replica_lost_in_mid_stream_ends_with_an_error_event(meter: Recorder, half: bytes) -> None:
    pieces: list[bytes | int] = [event("a"), *([half] if half else []), 0]
    with serving(Upstream(pieces=pieces)) as upstream:
        body = streamed(proxy_to(meter, at("a", upstream.url)).send(call(stream=True)))

    first, second, rest = body.split(b"\n\n")
    assert first + b"\n\n" == event("a")
    assert json.loads(second.removeprefix(b"data: "))["error"]["code"] == "upstream_lost"
    assert rest == b""
    assert b"id:" not in body.replace(b'"id":', b"") and b"retry:" not in body


def test_a_stream_that_ends_in_good_order_but_without_done_is_not_taken_for_finished(meter: Recorder) -> None:
    with serving(Upstream(pieces=[event("a")])) as upstream:
        body = streamed(proxy_to(meter, at("a", upstream.url)).send(call(stream=True)))

    assert b"upstream_lost" in body
    assert (meter.outcomes, meter.num_open) == (["broken"], 0)


@pytest.mark.parametrize("text", ["data: [DONE]", "\ndata: [DONE]\n\n"])
def test_a_model_that_writes_what_ends_streams_has_not_ended_its_own(meter: Recorder, text: str) -> None:
    with serving(Upstream(pieces=[event("a"), event(text) + event("b"), event("c")[:10], 0])) as upstream:
        body = streamed(proxy_to(meter, at("a", upstream.url)).send(call(stream=True)))
    assert b"upstream_lost" in body and meter.outcomes == ["broken"]


def test_what_ends_a_stream_is_seen_beside_the_event_before_it(meter: Recorder) -> None:
    with serving(Upstream(pieces=[event("a"), event("b") + DONE, 0])) as upstream:
        body = streamed(proxy_to(meter, at("a", upstream.url)).send(call(stream=True)))
    assert body == event("a") + event("b") + DONE and meter.outcomes == ["answered"]


def test_closing_the_stream_hangs_up_on_the_replica(meter: Recorder) -> None:
    many: list[bytes | int] = [event("x")] * 500
    with serving(Upstream(pieces=many, pause_seconds=0.01)) as upstream:
        proxy = proxy_to(meter, at("a", upstream.url))
        answer = proxy.send(call(stream=True))
        assert isinstance(answer.body, EventStream)
        answer.body.close()  # before its first step: what a server does when the client is gone already

        assert upstream.hung_up.wait(3)
    assert proxy.balancer.num_in_flight("a") == 0
    assert list(answer.body) == []
    assert meter.outcomes == ["client_gone"]


def test_another_replica_answers_when_one_refuses_the_connection(meter: Recorder) -> None:
    with serving(Upstream(body=b'{"ok":1}')) as upstream:
        dead = at("a", f"http://127.0.0.1:{closed_port()}")
        proxy = proxy_to(meter, dead, busy := at("b", upstream.url, load=9))
        assert proxy.send(call()).body == b'{"ok":1}'
        assert proxy.balancer.take([dead, busy]) is busy  # the other is left out for a while


def test_another_replica_answers_when_one_dies_before_its_first_event(meter: Recorder) -> None:
    with serving(Upstream(pieces=[0])) as dying, serving(Upstream(pieces=[event("a"), DONE])) as healthy:
        proxy = proxy_to(meter, at("a", dying.url), at("b", healthy.url, load=9))
        assert streamed(proxy.send(call(stream=True))) == event("a") + DONE


def test_a_stranger_on_the_port_of_a_replica_is_left_out(meter: Recorder) -> None:
    refusing = Upstream(status=401, body=b'{"error":"Unauthorized"}')
    with serving(refusing) as stranger, pytest.raises(Unavailable) as caught:
        proxy_to(meter, at("a", stranger.url)).send(call())
    assert not isinstance(caught.value, NoReplica)


@pytest.mark.parametrize("counted", [b"<html>", b'{"tokens": []}', b"[]"])
def test_another_replica_answers_when_one_does_not_count_the_prompt(meter: Recorder, counted: bytes) -> None:
    odd, good = Upstream(answers={TOKENIZE: (200, counted)}), Upstream(answers={TOKENIZE: (200, b'{"count": 4}')})
    with serving(odd), serving(good):
        proxy = proxy_to(meter, at("a", odd.url), at("b", good.url))
        answer = proxy.send(replace(call(), room=Room(max_length=9)))
    assert answer.status == 200
    assert json.loads(good.requests[-1]["body"])["max_tokens"] == 5


def test_a_request_brings_down_three_replicas_at_most(meter: Recorder) -> None:
    dead = [at(str(i), f"http://127.0.0.1:{closed_port()}") for i in range(4)]
    proxy = proxy_to(meter, *dead)
    with pytest.raises(Unavailable):
        proxy.send(call())
    assert proxy.balancer.take(dead) is dead[-1]


def test_the_only_replica_is_asked_again_after_a_lost_connection(meter: Recorder) -> None:
    lost: list[dict[str, Any]] = []
    with serving(Upstream(reply=lambda body: (200, b'{"ok":1}') if lost else lost.append(body))) as upstream:
        proxy = proxy_to(meter, at("a", upstream.url))
        with pytest.raises(Unavailable, match="went away before it answered: send the request again"):
            proxy.send(call())
        assert proxy.send(call()).body == b'{"ok":1}'


def test_without_a_replica_of_that_name_there_is_none(meter: Recorder) -> None:
    proxy = proxy_to(meter, at("a", "http://127.0.0.1:1"), name="other")
    with pytest.raises(NoReplica):
        proxy.send(call())


def test_what_vllm_refuses_is_told_in_our_envelope_with_the_field(meter: Recorder) -> None:
    body = b'{"error":{"message":"maximum context length is 64","type":"BadRequestError","param":"prompt","code":400}}'
    with serving(Upstream(status=400, body=body)) as upstream, pytest.raises(InvalidRequest) as caught:
        proxy_to(meter, at("a", upstream.url)).send(call(stream=True))
    assert caught.value.field == "prompt"
    assert "maximum context length" in caught.value.message
    assert (meter.outcomes, meter.num_open) == (["invalid"], 0)


def test_tools_that_the_replica_cannot_read_are_told_with_what_to_do(meter: Recorder) -> None:
    body = b'{"error":{"message":"tool_choice=\\"required\\" requires --tool-call-parser to be set","code":400}}'
    with serving(Upstream(status=400, body=body)) as upstream, pytest.raises(InvalidRequest) as caught:
        proxy_to(meter, at("a", upstream.url)).send(call())
    assert caught.value.field == "tools" and "tool_call_parser" in caught.value.message


def test_the_ledger_is_read_once_in_a_while_only() -> None:
    now, reads = [0.0], []
    directory = Directory(lambda project_id: reads.append(project_id) or Fleet(), clock=lambda: now[0])

    for _ in range(5):
        directory.fleet("proj-1")
    assert reads == ["proj-1"]
    now[0] += CACHE_SECONDS
    directory.fleet("proj-1")
    assert len(reads) == 2
    directory.forget("proj-1")
    directory.fleet("proj-1")
    assert len(reads) == 3


def test_a_name_that_is_not_found_or_not_ready_is_looked_for_in_the_ledger_once_in_half_a_second(
    meter: Recorder,
) -> None:
    now, reads, there = [0.0], [], [deployment("starting")]
    directory = Directory(
        lambda project_id: reads.append(now[0]) or Fleet(deployments=list(there)), clock=lambda: now[0]
    )
    proxy = Proxy(directory, meter)
    for name in ("starting", "unknown"):
        reads.clear()
        directory.forget("proj-1")
        for _ in range(9):
            proxy.find("proj-1", name)
        assert len(reads) == 2, name  # what runs, and once more for this name
    there.append(deployment("new"))
    assert proxy.find("proj-1", "new") == there[1]  # at once: nobody had asked for it
    there.append(deployment("unknown"))
    now[0] += AGAIN_SECONDS
    assert proxy.find("proj-1", "unknown") == there[2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_is_asked_for_is_kept_fresh_again_after_a_reading_that_failed_in_an_unforeseen_way() -> None:
    readers: list[str] = []

    def read(project_id: str) -> Fleet:
        readers.append(reader := threading.current_thread().name)
        if reader == "directory" and readers.count(reader) == 1:
            raise ValueError("a row that nobody understands")
        return Fleet()

    directory = Directory(read)
    directory.fleet("proj-1")
    wait_until(lambda: "directory" in readers, 5, "it was read in the background")

    def is_read_again() -> bool:
        directory.fleet("proj-1")
        return readers.count("directory") > 1

    wait_until(is_read_again, 5, "it is read in the background again")


def test_the_least_busy_replica_is_taken_and_a_broken_one_comes_back() -> None:
    now = [0.0]
    balancer = Balancer(clock=lambda: now[0])
    busy, idle = at("a", "http://a", load=2), at("b", "http://b", load=0.5)

    assert [balancer.take([busy, idle]) for _ in range(3)] == [idle, idle, busy]
    balancer.eject(idle)
    assert balancer.take([busy, idle]) is busy
    now[0] += 1.0
    balancer.eject(busy)
    assert balancer.take([busy, idle]) is idle  # which broke first
    assert balancer.take([busy, idle], tried=["b"]) is busy and balancer.take([busy, idle], tried=["a", "b"]) is None
    balancer.give_back(idle)
    balancer.give_back(busy)
    now[0] += EJECT_SECONDS
    balancer.give_back(idle)
    assert balancer.take([busy, idle]) is idle


def test_a_call_that_cannot_be_opened_leaves_nothing_taken(meter: Recorder) -> None:
    there = deployment(MODEL, [replica("a", "http://127.0.0.1:1", MODEL)])
    fleet = Fleet(deployments=[there])
    proxy = Proxy(Directory(lambda project_id: fleet), meter)
    unsayable = replace(call(stream=True), given={"messages": {1}})  # a set is no JSON
    with pytest.raises(TypeError):
        proxy.open(unsayable, fleet, there)
    assert (proxy.balancer.num_in_flight("a"), proxy.congestion.num_in_flight(there.id), meter.num_open) == (0, 0, 0)


def test_a_slow_stream_is_passed_on_event_by_event(meter: Recorder) -> None:
    with serving(Upstream(pieces=[event("a"), event("b"), DONE], pause_seconds=0.15)) as upstream:
        answer = proxy_to(meter, at("a", upstream.url)).send(call(stream=True))
        assert isinstance(answer.body, EventStream)
        times = []
        for _ in answer.body:
            times.append(time.monotonic())
    assert times[1] - times[0] > 0.1
