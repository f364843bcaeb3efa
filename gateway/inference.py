"""/v1/chat/completions and /v1/completions: checked here, answered by a replica, passed through as they come.

Only these two routes of vLLM are reachable. What nobody declared goes on as it is, but for what is dangerous or looks
like a slip (shared/extras.py). A body reaches vLLM byte for byte unless its preset or the deployment adds something, or
a name of LLaMA Factory's has to be translated. Which replica answers is gateway/replicas.py, how gateway/proxy.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

from flask import Response, request
from flask_smorest import Blueprint
from marshmallow import Schema

from gateway import body, generation, requests
from gateway.auth import project_id
from gateway.call import Answer, Call
from gateway.eventstream import DONE, EventStream, Usage
from gateway.http import origin
from gateway.patience import FAILED, Client
from gateway.proxy import NoReplica, Proxy
from gateway.replicas import Directory, beginning
from gateway.wakeups import Asked
from shared import answer_room, asking, routing
from shared.answer_room import Room
from shared.asking import CHAT, COMPLETIONS, RESPONSES
from shared.correlation import Origin
from shared.errors import ModelNotFound, NotFound, Unavailable
from shared.metrics.counted import Metrics
from shared.nearest import did_you_mean
from shared.records import Deployment
from shared.routing import fleet, version
from shared.settings import Settings
from shared.store import Store
from shared.tongues import Text
from shared.tracing import Tracer

#: A line of the last event of a stream of RESPONSES begins so, which has no [DONE].
RESPONSE_ENDS = (b"event: response.completed", b"event: response.incomplete", b"event: response.failed")
#: Beside its type; proxies in front must not collect events.
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
#: Longest list of known names in an answer to an unknown one.
MAX_NAMES = 10


class Services(Protocol):
    """What is used of the app's services."""

    @property
    def settings(self) -> Settings: ...
    @property
    def store(self) -> Store: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def tracer(self) -> Tracer: ...


def make_proxy(services: Services) -> Proxy:
    """One for all routes that ask models: it knows what is in flight."""
    directory = Directory(lambda project_id: fleet(services.store, project_id), partial(version, services.store))
    return Proxy(
        directory, GatewayMeter(services.metrics), Asked(services.store.deployments.asked), tracer=services.tracer
    )


def blueprint(services: Services, proxy: Proxy) -> Blueprint:
    made = Blueprint(
        "inference", __name__, description="Answers of deployed models; the openai client works unmodified"
    )

    @made.route(CHAT, methods=["POST"])
    @made.doc(requestBody=_described(requests.ChatRequest), responses=_ANSWERS)
    def chat() -> Response:
        """Continue a conversation"""
        return _answer(services, proxy, CHAT)

    @made.route(COMPLETIONS, methods=["POST"])
    @made.doc(requestBody=_described(requests.CompletionRequest), responses=_ANSWERS)
    def complete() -> Response:
        """Continue a text"""
        return _answer(services, proxy, COMPLETIONS)

    @made.route(RESPONSES, methods=["POST"])
    @made.doc(requestBody=_described(requests.ResponsesRequest), responses=_ANSWERS)
    def respond() -> Response:
        """Answer, in the form of OpenAI's responses

        Nothing is kept: what was said before is sent again as `input`. Parameters that vLLM's route does not know (`n`,
        beams, `min_tokens`, `bad_words`, ...) are refused; of a preset or a deployment they are left out.
        """
        return _answer(services, proxy, RESPONSES)

    return made


class GatewayMeter:
    """What is counted of each answer that passes."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics
        # Prometheus' own way from labels to what counts takes ten times as long, of which each answer has eight.
        self._of = metrics.labelled

    def began(self, model: str) -> None:
        self._of(self._metrics.answers_in_progress, model).inc()

    def first_token(self, model: str, seconds: float) -> None:
        self._of(self._metrics.time_to_first_token, model).observe(seconds)

    def finished(self, model: str, usage: Usage) -> None:
        self._of(self._metrics.answered_tokens, model).inc(usage.completion_tokens)

    def streamed(self, model: str, seconds: float, num_tokens: int) -> None:
        if num_tokens > 1:
            self._of(self._metrics.time_per_output_token, model).observe(seconds / (num_tokens - 1))

    def ended(self, model: str, outcome: str, seconds: float) -> None:
        self._of(self._metrics.answers_in_progress, model).dec()
        self._of(self._metrics.answers, model, outcome).inc()
        if outcome == "answered":
            self._of(self._metrics.answer_duration, model).observe(seconds)

    def withdrawn(self, model: str) -> None:
        self._of(self._metrics.answers_in_progress, model).dec()


def make_call(
    given: dict[str, Any],
    raw: bytes,
    deployment: Deployment,
    settled: dict[str, Any] | None,
    *,
    path: str,
    project_id: str,
    origin: Origin,
    client: Client | None = None,
) -> Call:
    """What goes to the deployment: `raw` itself, unless something is said otherwise (`settled`). It is named by its own
    name: of a route's targets the one that was drawn."""
    options = given.get("stream_options") or {}
    return Call(
        project_id=project_id,
        model=deployment.name,
        path=path,
        body=raw,
        given=None if settled is None else asking.to_openai(settled, path),
        stream=bool(given.get("stream")),
        include_usage=bool(options.get("include_usage")),
        request_id=origin.request_id,
        traceparent=origin.traceparent,
        user=user_of(given),
        prefix=beginning(given),
        ends=RESPONSE_ENDS if path == RESPONSES else (DONE,),
        room=answer_room.of(settled) if settled is not None else Room(),
        client=client or Client(),
    )


def check(path: str, given: dict[str, Any]) -> None:
    """Raises InvalidSpec with every field that is wrong."""
    if complaints := requests.complaints(path, given):
        raise generation.refusal(complaints)


def why_not(store: Store, project_id: str, model: str) -> Unavailable | ModelNotFound:
    """Why nobody answers for this name, and what to do."""
    running = fleet(store, project_id)
    if (deployment := routing.find(running, model, partial(version, store, project_id))) is not None:
        return _not_ready(deployment)
    known = [record.name for record in store.models.list(project_id)]
    routes = [route.name for route in running.routes]
    if is_model(store, project_id, model):
        call = f'POST /v1/deployments {{"model": "{model}"}}'
        text = "{model!r} is not deployed: {call}, then ask again when it is ready"
        return Unavailable(text, field="model", model=model, call=call)
    names = list(dict.fromkeys([*(deployment.name for deployment in running.deployments), *routes, *known]))
    listed = ", ".join(repr(name) for name in names[:MAX_NAMES]) or Text("none yet")
    near, text = did_you_mean(model, names), "there is no model {model!r}{near}; known: {listed}"
    return ModelNotFound(text, field="model", model=model[:200], near=near, listed=listed)


def is_model(store: Store, project_id: str, name: str) -> bool:
    try:
        return bool(store.models.get(project_id, name))
    except NotFound:
        return False


def _not_ready(deployment: Deployment) -> Unavailable:
    why = f": {deployment.error}" if deployment.error else ""
    text = "the deployment of {model!r} is {status}{why}; see GET /v1/deployments/{id}"
    if deployment.status == "failed":
        text = "the deployment of {model!r} has failed{why}; see GET /v1/deployments/{id}"
        return Unavailable(text, field="model", model=deployment.name, why=why, id=deployment.id)
    if deployment.status == "ready":
        # It became so since a replica was looked for, or the one that is left is about to stop.
        text = "{model!r} is ready, but no replica could be asked a moment ago: send the request again"
        return Unavailable(text, field="model", model=deployment.name)
    told: dict[str, Any] = {"model": deployment.name, "status": deployment.status, "why": why, "id": deployment.id}
    return Unavailable(text, field="model", **told)


def ask(
    services: Services,
    proxy: Proxy,
    path: str,
    given: dict[str, Any],
    raw: bytes,
    *,
    project_id: str,
    origin: Origin,
    client: Client | None = None,
    unless_said: Mapping[str, Any] | None = None,
) -> Answer:
    """One request of any route, checked and sent; needs no request of Flask's. `raw`: the text of `given`. `client`:
    whose leaving ends it. `unless_said`: under what the deployment says."""
    check(path, given)
    store, name = services.store, given["model"]
    if (deployment := proxy.find(project_id, name, user_of(given))) is None:
        raise why_not(store, project_id, name)
    settled = generation.settled(store, project_id, given, deployment, path, unless_said or {})
    named: dict[str, Any] = {"path": path, "project_id": project_id, "origin": origin, "client": client}
    call = make_call(given, raw, deployment, settled, **named)
    try:
        return proxy.send(call)
    except NoReplica as error:
        raise why_not(store, project_id, name) from error


def _answer(services: Services, proxy: Proxy, path: str) -> Response:
    if (failed := request.environ.get(FAILED)) is not None:
        raise failed
    # Cached: read once more below, as the object that it is.
    raw = request.get_data(cache=True)
    given = body.json_object()
    client = Client.of(request.environ)
    answer = ask(services, proxy, path, given, raw, project_id=project_id(), origin=origin(), client=client)
    if isinstance(answer.body, EventStream):
        services.metrics.labelled(services.metrics.streams, "ordinary").inc()
    return _response(answer)


def user_of(given: dict[str, Any]) -> str:
    return user if isinstance(user := given.get("user"), str) else ""


def _response(answer: Answer) -> Response:
    # A stream goes to the server as it is: it carries it, or iterates over it and closes it when the client is gone.
    carried = isinstance(answer.body, EventStream)
    response = Response(answer.body, status=answer.status, content_type=answer.content_type, direct_passthrough=carried)
    if isinstance(answer.body, EventStream):
        response.headers.update(STREAM_HEADERS)
    return response


def _described(schema: type[Schema]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_ANSWERS: dict[str, Any] = {
    "200": {
        "description": "vLLM's answer, in OpenAI's form; with stream, events that end with [DONE].",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    },
    "422": {"description": "Fields out of range."},
    "404": {"description": "No model of that name."},
    "429": {"description": "More requests are in flight than max_concurrent_requests: ask again after Retry-After."},
    "504": {"description": "The replica was silent for longer than request_timeout_seconds."},
    "503": {"description": "Not deployed, or no replica is ready: ask again after Retry-After."},
}
