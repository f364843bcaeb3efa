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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.call import Answer, Call
from gateway.congestion import Congestion, Limits, limits
from gateway.connections import Connections
from gateway.eventstream import EventStream, Usage, too_slow, usage
from gateway.exchange import Exchange, Lost, Stale
from gateway.metering import Meter, outcome
from gateway.patience import TooLong
from gateway.replicas import Balancer, Directory
from shared import answer_room, routing
from shared.answer_room import TOKENIZE
from shared.errors import InvalidRequest, TunesmithError, Unavailable
from shared.records import Deployment
from shared.routing import Endpoint, Fleet
from shared.tracing import NoSpan, NoTracer, Span, Tracer

log = logging.getLogger(__name__)

#: Whose replicas answer for a deployment, and those that are ready.
Place = tuple[Deployment, Sequence[Endpoint]]
#: A request that brings replicas down must not get to bring all of them down.
MAX_TRIES = 3
#: In vLLM's refusal of tools where it was started without a parser of calls.
PARSER_OPTION = "--tool-call-parser"
#: How often a request that waits for a replica looks for one.
LOOK_SECONDS = 0.25


class NoReplica(Unavailable):
    """No replica of this model is ready."""


class NotKnown(Lost):
    """A replica does not know the model by that name (any more): an adapter was unloaded. It answers to others."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A call that was sent to a replica without waiting for anything; of its answer nothing is there yet."""

    exchange: Exchange
    #: Longest silence.
    seconds: float
    #: The stream, as its first bytes are there.
    begun: Callable[[bytes], EventStream]
    #: It will not be answered: why, or None where it is asked once more.
    ended: Callable[[Exception | None], None]


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
        if found is None or self._place(project_id, found)[1] or not self._directory.look_again(project_id, name):
            return found
        # It may have got ready since the ledger was read, a second ago.
        return self._directory.find(project_id, name, user)

    def known(self, project_id: str, name: str, user: str = "") -> tuple[Fleet, Deployment] | None:
        """As `find`, and what runs, where nothing has to be waited for."""
        return self._directory.known(project_id, name, user)

    def open(self, call: Call, fleet: Fleet, deployment: Deployment) -> Opened | None:
        """Sends a call for a stream where nothing has to be waited for; None: `send` it. Raises as `send` does before
        it waits."""
        call.client.drain.check()
        host, there = self._place_in(fleet, call.project_id, deployment)
        if not there or call.room.max_length is not None:
            return None
        self._asked(call.project_id, deployment.id)
        self.congestion.enter(host.id, bounds := limits(host.spec), there, call.model)
        seconds = bounds.queue.request_timeout_seconds
        opened = None
        try:
            if (replica := self.balancer.take(there, (), call.prefix)) is not None:
                opened = self._open(replica, call, host.id, seconds)
            return opened
        finally:
            if opened is None:
                self.congestion.began()
                self.congestion.leave(host.id, answered=False)

    def _open(self, replica: Endpoint, call: Call, key: str, seconds: float) -> Opened | None:
        span: Span = NoSpan()
        try:
            span = self._span(replica, call)
            call = replace(call, traceparent=span.traceparent)
            exchange = self._exchange(replica, call, call.path, call.body_for(replica), seconds, waits=False)
        except BaseException as error:
            self._give_up(replica, call, span, error)
            if isinstance(error, Lost | Stale):
                return None
            raise
        self._meter.began(call.model)

        def begun(first: bytes) -> EventStream:
            try:
                stream = self._stream(exchange, first, replica, call, key, seconds, span)
            except Exception as error:
                ended(error)
                raise
            self.congestion.began()
            return stream

        def ended(error: Exception | None) -> None:
            exchange.close()
            self.congestion.began()
            self.congestion.leave(key, answered=False)
            self._give_up(replica, call, span, error)
            if isinstance(error, TunesmithError):
                self._meter.ended(call.model, outcome(error), call.seconds)
            else:
                self._meter.withdrawn(call.model)

        return Opened(exchange=exchange, seconds=seconds, begun=begun, ended=ended)

    def _give_up(self, replica: Endpoint, call: Call, span: Span, error: BaseException | None) -> None:
        self.balancer.give_back(replica)
        span.end(error=type(error).__name__ if error else "asked once more")
        if isinstance(error, Lost):
            self._leave_out(replica, call, error)

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
        return self._place_in(self._directory.fleet(project_id), project_id, deployment)

    def _place_in(self, fleet: Fleet, project_id: str, deployment: Deployment) -> Place:
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
                raise too_slow(call.model, bounds.queue.request_timeout_seconds) from error
            except Lost as error:
                self._leave_out(replica, call, error)
        if not tried:
            raise NoReplica(f"no replica of {call.model!r} is ready")
        text = "the replica of {model!r} went away before it answered: send the request again"
        raise Unavailable(text, model=call.model)

    def _leave_out(self, replica: Endpoint, call: Call, error: Exception) -> None:
        if not isinstance(error, NotKnown):
            self.balancer.eject(replica)
        self._directory.forget(call.project_id)
        extra = {"replica_id": replica.id, "request_id": call.request_id, "model": call.model}
        log.warning("Replica %s failed before its first byte: %s", replica.id, error, extra=extra)

    def _ask(self, replica: Endpoint, call: Call, key: str, seconds: float) -> Answer:
        span = self._span(replica, call)
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

    def _span(self, replica: Endpoint, call: Call) -> Span:
        told: dict[str, Any] = {
            "replica_id": replica.id,
            "model": call.model,
            "request_id": call.request_id,
            "url__path": call.path,
        }
        return self._tracer.start("replica", call.traceparent, kind="client", **told)

    def _exchange(
        self, replica: Endpoint, call: Call, path: str, body: bytes, seconds: float, *, waits: bool = True
    ) -> Exchange:
        headers, kept = _headers(replica, call), self._connections
        return Exchange(replica.url, path, body, headers, call.client, seconds, kept, waits)

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
            except (ValueError, KeyError, TypeError) as error:
                raise Lost("it did not count the prompt") from error
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
        stream = self._stream(exchange, first, replica, call, key, seconds, span)
        return Answer(status=exchange.status, content_type=exchange.content_type, body=stream)

    def _stream(
        self, exchange: Exchange, first: bytes, replica: Endpoint, call: Call, key: str, seconds: float, span: Span
    ) -> EventStream:
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
        return stream


def _placed(fleet: Fleet, deployment: Deployment) -> Place:
    now = {one.id: one for one in fleet.deployments}
    if (current := now.get(deployment.id)) is None:
        return replace(deployment, wanted="stopped"), ()
    return now.get(current.host_id or "", current), routing.endpoints(fleet, current)


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
