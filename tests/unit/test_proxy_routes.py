"""/v1/chat/completions and /v1/completions of the whole gateway app, with a ledger, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from werkzeug.serving import make_server

from gateway import create_app, inference
from shared import schema
from shared.records import NewModel
from shared.settings import Settings
from shared.spec import DeploySpec
from shared.store import Store
from tests.otlp import Collector, collecting
from tests.platform import wait_until
from tests.unit.upstream import Upstream, event, serving

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "smol",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
DONE = b"data: [DONE]\n\n"


@dataclass
class Platform:
    """A gateway that listens, and its ledger."""

    port: int
    store: Store
    project_id: str
    secret: str
    client: openai.OpenAI
    collector: Collector

    def add_model(self, name: str) -> None:
        new = NewModel(name=name, kind="base", uri="store://m", digest="d", size_bytes=1, format="safetensors")
        self.store.models.create(self.project_id, new)

    def deploy(self, name: str) -> None:
        spec = schema.to_wire(schema.load(DeploySpec, {"model": name}))
        self.store.deployments.create(self.project_id, name=name, model_name=name, spec=spec)

    def make_ready(self, upstream: Upstream) -> None:
        replica = self.store.replicas.claim_next("worker", None)
        assert replica is not None
        self.store.replicas.renew(replica.id, replica.attempt, status="ready", url=upstream.url, api_key="replica-key")


@dataclass
class Gateway:
    port: int
    store: Store
    #: Of its traces.
    collector: Collector


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with collecting() as collector:
        traces = {"otlp_endpoint": collector.url, "otlp_headers": "Authorization=Basic%20abc"}
        settings = Settings(home=tmp_path_factory.mktemp("home"), log_level="ERROR", **traces)
        yield from _gateway(settings, collector)


def _gateway(settings: Settings, collector: Collector) -> Iterator[Gateway]:
    store = Store(settings.database_url)
    store.migrate()
    server = make_server("127.0.0.1", 0, create_app(settings, store), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield Gateway(port=server.port, store=store, collector=collector)
    finally:
        server.shutdown()
        server.server_close()
        store.close()


@pytest.fixture
def platform(gateway: Gateway) -> Iterator[Platform]:
    """The gateway as a project of its own sees it."""
    project = gateway.store.projects.create(f"project-{time.monotonic_ns()}")
    _, secret = gateway.store.keys.create(project.id, "test", "user")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=secret, max_retries=0) as client:
        named = {"port": gateway.port, "store": gateway.store, "collector": gateway.collector}
        yield Platform(project_id=project.id, secret=secret, client=client, **named)
    for deployment in gateway.store.deployments.list(project.id):
        gateway.store.deployments.delete(project.id, deployment.id)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with serving(Upstream(body=json.dumps(ANSWER).encode())) as upstream:
        yield upstream


@pytest.fixture
def served(platform: Platform, upstream: Upstream) -> Platform:
    platform.add_model("smol")
    platform.deploy("smol")
    platform.make_ready(upstream)
    return platform


def test_an_answer_comes_from_the_replica_under_our_request_id(served: Platform, upstream: Upstream) -> None:
    answer = served.client.chat.completions.create(model="smol", messages=HELLO)

    assert answer.choices[0].message.content == "hi"
    assert answer._request_id and answer._request_id == upstream.requests[0]["headers"]["X-Request-Id"]
    # The client's own key stays with us.
    assert upstream.requests[0]["headers"]["Authorization"] == "Bearer replica-key"


def test_a_stream_comes_as_the_replica_sends_it(served: Platform, upstream: Upstream) -> None:
    upstream.pieces = [event("he"), event("llo"), DONE]
    chunks = list(served.client.chat.completions.create(model="smol", messages=HELLO, stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["he", "llo"]


def test_a_stream_is_one_trace_with_the_moment_of_its_first_token(served: Platform, upstream: Upstream) -> None:
    upstream.pieces = [event("he"), event("llo"), DONE]
    trace = f"{time.time_ns():032x}"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "X-Request-Id": "mine"}
    list(served.client.chat.completions.create(model="smol", messages=HELLO, stream=True, extra_headers=headers))

    asked, replica = wait_until(lambda: len(found := served.collector.trace(trace)) == 2 and found, 10, "both spans")
    assert (asked.name, asked.service, asked.parent) == (
        "POST /v1/chat/completions",
        "tunesmith-gateway",
        "00f067aa0ba902b7",
    )
    told = {"request_id": "mine", "http.response.status_code": 200, "project_id": served.project_id}
    assert told.items() <= asked.attributes.items()
    assert (replica.name, replica.parent, replica.events) == ("replica", asked.span_id, ("first token",))
    assert replica.attributes["gen_ai.usage.output_tokens"] == 2 and replica.ended > asked.began
    assert upstream.requests[-1]["headers"]["traceparent"] == f"00-{trace}-{replica.span_id}-01"
    assert served.collector.headers[-1]["authorization"] == "Basic abc"


def test_a_request_that_nobody_answers_is_a_span_that_failed(served: Platform, upstream: Upstream) -> None:
    upstream.reply = lambda body: None
    trace = f"{time.time_ns():032x}"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    with pytest.raises(openai.APIStatusError):
        served.client.chat.completions.create(model="smol", messages=HELLO, extra_headers=headers)

    asked, replica = wait_until(lambda: len(found := served.collector.trace(trace)) == 2 and found, 10, "both spans")
    assert asked.is_error and replica.is_error and asked.attributes["http.response.status_code"] == 503


def test_a_broken_stream_raises_in_the_client(served: Platform, upstream: Upstream) -> None:
    upstream.pieces = [event("he"), 0]
    stream = served.client.chat.completions.create(model="smol", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.code == "upstream_lost"


def test_names_of_llama_factory_are_translated_and_all_others_passed_on(served: Platform, upstream: Upstream) -> None:
    extra = {"do_sample": False, "max_new_tokens": 7, "top_k": 3, "guided_regex": "a+"}
    served.client.completions.create(model="smol", prompt="once", extra_body=extra)

    sent = json.loads(upstream.requests[0]["body"])
    expected = {"model": "smol", "prompt": "once", "temperature": 0.0, "max_tokens": 7, "top_k": 3}
    # vLLM has forgotten the old name, and would pass it over.
    assert sent == expected | {"structured_outputs": {"regex": "a+"}}
    assert upstream.requests[0]["path"] == "/v1/completions"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stream": "yes"}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_new_tokens": 4, "max_tokens": 5}, "max_new_tokens"),
        ({"stop": 7}, "stop"),
        ({"model": None}, "model"),
    ],
)
def test_what_is_out_of_range_is_refused_with_its_field(
    served: Platform, upstream: Upstream, wrong: dict[str, Any], field: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        served.client.post("/chat/completions", body={"model": "smol", "messages": HELLO} | wrong, cast_to=object)
    assert caught.value.param == field
    assert not upstream.requests


def test_a_null_means_left_out_as_at_openai(served: Platform) -> None:
    body = {"model": "smol", "messages": HELLO, "temperature": None, "stop": None}
    served.client.post("/chat/completions", body=body, cast_to=object)


def test_an_unknown_model_answers_with_the_nearest_name(served: Platform) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        served.client.chat.completions.create(model="smoll", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert "did you mean 'smol'?" in str(caught.value)


def test_a_model_that_is_not_deployed_says_how_to_deploy_it(platform: Platform) -> None:
    platform.add_model("smol")
    with pytest.raises(openai.InternalServerError) as caught:
        platform.client.chat.completions.create(model="smol", messages=HELLO)
    assert caught.value.status_code == 503
    assert 'POST /v1/deployments {"model": "smol"}' in str(caught.value)
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 120


def test_a_deployment_that_failed_says_why(platform: Platform) -> None:
    platform.add_model("smol")
    platform.deploy("smol")
    replica = platform.store.replicas.claim_next("worker", None)
    assert replica is not None
    platform.store.replicas.renew(replica.id, replica.attempt, status="failed", error="ValueError: no such layer")
    with pytest.raises(openai.InternalServerError, match="no such layer"):
        platform.client.chat.completions.create(model="smol", messages=HELLO)


def test_of_a_deployment_that_is_ready_by_now_that_is_told(served: Platform) -> None:
    why = inference.why_not(served.store, served.project_id, "smol")
    assert (why.status, why.message) == (
        503,
        "'smol' is ready, but no replica could be asked a moment ago: send the request again",
    )


def test_another_projects_replica_answers_nobody_else(served: Platform) -> None:
    _, stranger = served.store.keys.create(served.store.projects.create("other").id, "other", "user")
    with pytest.raises(openai.NotFoundError):
        served.client.with_options(api_key=stranger).chat.completions.create(model="smol", messages=HELLO)


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/embeddings", "/sleep", "/v1/tokenize"])
def test_other_routes_of_vllm_are_not_reachable(served: Platform, upstream: Upstream, path: str) -> None:
    with pytest.raises(openai.NotFoundError):
        served.client.post(f"http://127.0.0.1:{served.port}{path}", body={"model": "smol"}, cast_to=object)
    assert not upstream.requests


def test_a_client_that_leaves_ends_the_generation(served: Platform, upstream: Upstream) -> None:
    upstream.pieces, upstream.pause_seconds = [event("x")] * 1000, 0.01
    body = json.dumps({"model": "smol", "messages": HELLO, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.secret}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(head.encode() + body)
        assert connection.recv(4096).startswith(b"HTTP/1.")

    assert upstream.hung_up.wait(5)


def test_a_stream_is_answered_with_headers_that_keep_proxies_from_collecting_it(
    served: Platform, upstream: Upstream
) -> None:
    upstream.pieces = [event("a"), DONE]
    with served.client.chat.completions.with_streaming_response.create(
        model="smol", messages=HELLO, stream=True
    ) as response:
        text = response.read()
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    assert text == event("a") + DONE


def test_what_passed_is_counted(platform: Platform, upstream: Upstream) -> None:
    platform.add_model("counted")
    platform.deploy("counted")
    platform.make_ready(upstream)
    platform.client.chat.completions.create(model="counted", messages=HELLO)
    upstream.pieces = [event("a"), event("b"), DONE]
    list(platform.client.chat.completions.create(model="counted", messages=HELLO, stream=True))

    operator = platform.store.keys.create(platform.store.projects.default().id, "operator", "viewer")[1]

    def told() -> str:
        headers = {"Authorization": f"Bearer {operator}"}
        return httpx.get(f"http://127.0.0.1:{platform.port}/metrics", headers=headers).text

    # The last chunk is with the client before it is counted.
    wait_until(lambda: 'tunesmith_answered_tokens_total{model="counted"} 3.0' in told(), 10, "both are counted")
    page = told()
    assert 'tunesmith_time_to_first_token_seconds_count{model="counted"} 1.0' in page
