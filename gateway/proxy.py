"""Carry one request to a ready replica of a model and its answer back, byte for byte.

A request is sent to another replica only while the client has seen nothing of an answer. It waits while a deployment
that rests wakes up, is refused where too many are in flight (gateway/congestion.py), and ends when its client leaves
(gateway/patience.py). Streams are gateway/eventstream.py's. Knows nothing of Flask (gateway/inference.py) and does not
decide what may be sent.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from gateway.congestion import Congestion, Limits, limits
from gateway.connections import Connections
from gateway.eventstream import DONE, EventStream, TooSlow, Usage, usage
from gateway.exchange import Exchange, Lost
from gateway.patience import Client, ClientGone, TooLong
from gateway.replicas import Balancer, Directory
from shared import answer_room, carried, routing
from shared.answer_room import TOKENIZE, Room
from shared.errors import InvalidRequest, TunesmithError, Unavailable
from shared.records import Deployment
from shared.routing import Endpoint, Fleet
from shared.tracing import NoTracer, Span, Tracer

log = logging.getLogger(__name__)

#: Whose replicas answer for a deployment, and those that are ready.
Place = tuple[Deployment, Sequence[Endpoint]]
#: A request that brings replicas down must not get to bring all of them down.
MAX_TRIES = 3
#: In vLLM's refusal of tools where it was started without a parser of calls.
PARSER_OPTION = "--tool-call-parser"
#: How often a request that waits for a replica looks for one.
LOOK_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request as it goes to a replica."""

    project_id: str
    #: As the request names it.
    model: str
    #: `/v1/chat/completions` or `/v1/completions`.
    path: str
    #: As it came; it goes on byte for byte where nothing in it has to be said otherwise.
    body: bytes
    #: What goes on instead, under the replica's own name of the model; None: nothing has to be said otherwise but that.
    given: Mapping[str, Any] | None = None
    stream: bool = False
    #: Whether the stream will tell its usage at the end (stream_options.include_usage).
    include_usage: bool = False
    request_id: str = ""
    #: Span that it is a part of.
    traceparent: str = ""
    #: Whom it is for: a route sends all requests of one user to one target. Empty: not told.
    user: str = ""
    #: What it may have in common with earlier ones (`replicas.beginning`).
    prefix: str = ""
    #: What is seen to here and not by the replica.
    room: Room = field(default_factory=Room)
    #: What the last event of its stream has.
    ends: tuple[bytes, ...] = (DONE,)
    client: Client = field(default_factory=Client)
    #: Monotonic.
    began_at: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began_at

    def body_for(self, replica: Endpoint) -> bytes:
        if self.given is None and replica.served_name == self.model and not replica.carries:
            return self.body
        return json.dumps(self.asked(replica)).encode()

    def asked(self, replica: Endpoint) -> dict[str, Any]:
        """What the replica is asked, in words."""
        given = json.loads(self.body) if self.given is None else self.given
        return carried.into(given, replica.carries, self.path) | {"model": replica.served_name}


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    content_type: str
    #: The whole body, or an `EventStream` that must be closed.
    body: bytes | EventStream


class Meter(Protocol):
    """Where the numbers of one answer go."""

    def began(self, model: str) -> None: ...
    def first_token(self, model: str, seconds: float) -> None: ...
    def finished(self, model: str, usage: Usage) -> None: ...

    def streamed(self, model: str, seconds: float, num_tokens: int) -> None:
        """A stream of so many tokens took so long from the first to the last."""

    def ended(self, model: str, outcome: str, seconds: float) -> None:
        """How a request that began has ended, and after how long."""


class NullMeter:
    """Counts nothing."""

    def began(self, model: str) -> None:
        pass

    def first_token(self, model: str, seconds: float) -> None:
        pass

    def finished(self, model: str, usage: Usage) -> None:
        pass

    def streamed(self, model: str, seconds: float, num_tokens: int) -> None:
        pass

    def ended(self, model: str, outcome: str, seconds: float) -> None:
        pass


class NoReplica(Unavailable):
    """No replica of this model is ready."""


class NotKnown(Lost):
    """A replica does not know the model by that name (any more): an adapter was unloaded. It answers to others."""


class Proxy:
    """Sends calls to replicas: chooses one, tries another while nothing was answered, counts what came back."""

    def __init__(
        self,
        directory: Directory,
        meter: Meter,
        asked: Callable[[str, str], None] = lambda project_id, deployment_id: None,
        balancer: Balancer | None = None,
        tracer: Tracer | None = None,
    ):
        """`asked` is told of each deployment that a request names."""
        self._tracer = tracer or NoTracer()
        self._directory = directory
        self._meter = meter
        self._asked = asked
        self.balancer = balancer or Balancer()
        self.congestion = Congestion()
        self._connections = Connections()
        #: Of each project what was found in its fleet, which is asked for several times by each request.
        self._places: dict[str, tuple[Fleet, dict[str, Place]]] = {}

    def find(self, project_id: str, name: str, user: str = "") -> Deployment | None:
        """The deployment that answers to `name` this time."""
        found = self._directory.find(project_id, name, user)
        if found is not None and not self._place(project_id, found)[1]:
            # It may have got ready since the ledger was read, a second ago.
            self._directory.forget(project_id)
            found = self._directory.find(project_id, name, user)
        return found

    def send(self, call: Call) -> Answer:
        """Raises NoReplica when none is ready, Overloaded when too many requests are in flight, Unavailable when the
        replicas that were tried failed, TooSlow, InvalidRequest when vLLM refuses the request, ClientGone."""
        call.client.drain.check()
        if (deployment := self.find(call.project_id, call.model, call.user)) is None:
            raise NoReplica(f"nothing answers to {call.model!r}")
        self._meter.began(call.model)
        try:
            answer = self._admit(call, deployment)
        except BaseException as error:
            self._meter.ended(call.model, outcome(error), call.seconds)
            raise
        if not isinstance(answer.body, EventStream):
            self._meter.ended(call.model, "answered", call.seconds)
        return answer

    def _admit(self, call: Call, deployment: Deployment) -> Answer:
        self._asked(call.project_id, deployment.id)
        host, there = self._place(call.project_id, deployment)
        bounds = limits(host.spec)
        self.congestion.enter(host.id, bounds, there, call.model)
        answer: Answer | None = None
        try:
            self._awake(call, deployment, bounds)
            answer = self._try_replicas(call, deployment, host, bounds)
            return answer
        finally:
            self.congestion.began()
            if answer is None or not isinstance(answer.body, EventStream):
                self.congestion.leave(host.id, answered=answer is not None)

    def _place(self, project_id: str, deployment: Deployment) -> Place:
        """Whose replicas answer for it, and those that are ready, as they are now."""
        fleet = self._directory.fleet(project_id)
        seen, places = self._places.get(project_id, (None, {}))
        if seen is not fleet:
            self._places[project_id] = fleet, (places := {})
        if (place := places.get(deployment.id)) is None:
            place = places[deployment.id] = _placed(fleet, deployment)
        return place

    def _awake(self, call: Call, deployment: Deployment, bounds: Limits) -> None:
        """Waits while the deployment wakes up. Raises NoReplica where that takes too long, or it does not."""
        until = time.monotonic() + bounds.queue.wake_timeout_seconds
        while True:
            host, there = self._place(call.project_id, deployment)
            if there:
                return
            if not is_waking(host) or time.monotonic() > until:
                raise NoReplica(f"no replica of {call.model!r} is ready")
            self._asked(call.project_id, deployment.id)
            call.client.pause(LOOK_SECONDS)

    def _try_replicas(self, call: Call, deployment: Deployment, host: Deployment, bounds: Limits) -> Answer:
        tried: set[str] = set()
        while len(tried) < MAX_TRIES:
            _, there = self._place(call.project_id, deployment)
            if (replica := self.balancer.take(there, tried, call.prefix)) is None:
                break
            tried.add(replica.id)
            try:
                return self._ask(replica, call, host.id, bounds.queue.request_timeout_seconds)
            except TooLong as error:
                text = "the replica of {model!r} did not answer in {seconds:.0f} s (request_timeout_seconds)"
                seconds = bounds.queue.request_timeout_seconds
                raise TooSlow(text, model=call.model, seconds=seconds) from error
            except Lost as error:
                self._leave_out(replica, call, error)
        if not tried:
            raise NoReplica(f"no replica of {call.model!r} is ready")
        text = "the replica of {model!r} went away before it answered; it is being replaced"
        raise Unavailable(text, model=call.model)

    def _leave_out(self, replica: Endpoint, call: Call, error: Exception) -> None:
        if not isinstance(error, NotKnown):
            self.balancer.eject(replica)
        self._directory.forget(call.project_id)
        extra = {"replica_id": replica.id, "request_id": call.request_id, "model": call.model}
        log.warning("Replica %s failed before its first byte: %s", replica.id, error, extra=extra)

    def _ask(self, replica: Endpoint, call: Call, key: str, seconds: float) -> Answer:
        told: dict[str, Any] = {
            "replica_id": replica.id,
            "model": call.model,
            "request_id": call.request_id,
            "url__path": call.path,
        }
        span = self._tracer.start("replica", call.traceparent, kind="client", **told)
        try:
            return self._answered(replica, replace(call, traceparent=span.traceparent), key, seconds, span)
        except BaseException as error:
            span.end(error=type(error).__name__)
            raise

    def _answered(self, replica: Endpoint, call: Call, key: str, seconds: float, span: Span) -> Answer:
        """The replica is given back when its answer is complete: at once here, by the stream otherwise."""
        handed_on = False
        exchange: Exchange | None = None
        try:
            body = call.body_for(replica) if call.room.max_length is None else self._limited(replica, call, seconds)
            exchange = self._exchange(replica, call, call.path, body, seconds)
            exchange.head()
            _check(exchange, call)
            if call.stream:
                answer = self._begin_stream(exchange, replica, call, key, seconds, span)
                handed_on = True
                return answer
            whole = _whole(exchange)
            self._meter.finished(call.model, used := usage(whole))
            _end(span, used)
            told = answer_room.told(whole, call.room)
            return Answer(status=exchange.status, content_type=exchange.content_type, body=told)
        finally:
            if not handed_on:
                if exchange is not None:
                    exchange.close()
                self.balancer.give_back(replica)

    def _exchange(self, replica: Endpoint, call: Call, path: str, body: bytes, seconds: float) -> Exchange:
        return Exchange(replica.url, path, body, _headers(replica, call), call.client, seconds, self._connections)

    def _limited(self, replica: Endpoint, call: Call, seconds: float) -> bytes:
        """The body with as many tokens for the answer as `max_length` leaves. Raises InvalidSpec, and as a request
        does."""
        asked, longest = call.asked(replica), call.room.max_length
        assert longest is not None
        if (count := answer_room.num_tokens(asked)) is None:
            exchange = self._exchange(replica, call, TOKENIZE, answer_room.question(asked), seconds)
            try:
                exchange.head()
                _check(exchange, call)
                count = int(json.loads(_whole(exchange))["count"])
            finally:
                exchange.close()
        return json.dumps(answer_room.limited(asked, call.path, count, longest)).encode()

    def _begin_stream(
        self, exchange: Exchange, replica: Endpoint, call: Call, key: str, seconds: float, span: Span
    ) -> Answer:
        """Waits for the first bytes: until they are there another replica could still be asked."""
        first = exchange.read()
        if not first:
            raise Lost("it ended the stream before its first event")
        self._meter.first_token(call.model, first_after := call.seconds)
        span.event("first token")

        def finished(usage: Usage) -> None:
            self.balancer.give_back(replica)
            self.congestion.leave(key, answered=True)
            self._meter.finished(call.model, usage)
            self._meter.streamed(call.model, call.seconds - first_after, usage.completion_tokens)
            self._meter.ended(call.model, stream.outcome, call.seconds)
            _end(span, usage)

        stream = EventStream(
            exchange, first, model=call.model, request_id=call.request_id, seconds=seconds,
            include_usage=call.include_usage, finished=finished, ends=call.ends,
        )  # fmt: skip
        return Answer(status=exchange.status, content_type=exchange.content_type, body=stream)


def _placed(fleet: Fleet, deployment: Deployment) -> Place:
    now = {one.id: one for one in fleet.deployments}
    if (current := now.get(deployment.id)) is None:
        return replace(deployment, wanted="stopped"), ()
    return now.get(current.host_id or "", current), routing.endpoints(fleet, current)


def outcome(error: BaseException) -> str:
    """What a request that was not answered is counted as."""
    if isinstance(error, ClientGone):
        return "client_gone"
    status = error.status if isinstance(error, TunesmithError) else 500
    return {429: "refused", 504: "too_slow"}.get(status, "invalid" if status < 500 else "unavailable")


def is_waking(deployment: Deployment) -> bool:
    """Whether replicas of it are on their way because it was asked for, or because it changes its version: not the
    first start of a deployment, which takes minutes and whose user knows."""
    rests = deployment.num_wanted is not None or deployment.spec.get("idle_timeout_seconds") is not None
    return deployment.status in ("pending", "starting", "stopping", "idle") and (rests or deployment.generation > 1)


def _headers(replica: Endpoint, call: Call) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "X-Request-Id": call.request_id}
    headers |= {"traceparent": call.traceparent} if call.traceparent else {}
    return headers | ({"Authorization": f"Bearer {replica.api_key}"} if replica.api_key else {})


def _end(span: Span, used: Usage) -> None:
    span.tell(gen_ai__usage__input_tokens=used.prompt_tokens, gen_ai__usage__output_tokens=used.completion_tokens)
    span.end()


def _whole(exchange: Exchange) -> bytes:
    return b"".join(iter(exchange.read, b""))


def _check(exchange: Exchange, call: Call) -> None:
    """Turns a refusal by vLLM into our own error, whose envelope clients know."""
    if exchange.status < 400:
        return
    if exchange.status == 404:
        raise NotKnown("it does not know the model")
    if exchange.status in (401, 403):
        # Another server on a port that was freed.
        raise Lost(f"it answered {exchange.status}")
    message, field = _refusal(_whole(exchange))
    if PARSER_OPTION in message:
        text = "the chat template of {model!r} shows no calls that vLLM reads: give its deployment a tool_call_parser"
        raise InvalidRequest(text, field="tools", model=call.model)
    if exchange.status >= 500:
        raise Unavailable("the replica of {model!r} failed: {message}", model=call.model, message=message)
    raise InvalidRequest(message, field=field)


def _refusal(body: bytes) -> tuple[str, str | None]:
    try:
        error = json.loads(body)["error"]
        return str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        return body.decode(errors="replace")[:1000], None
