"""Carry one request to a ready replica of a model and its answer back, byte for byte.

A request is sent to another replica only while the client has seen nothing of an answer. Events of a stream are passed
on whole and never parsed: one that a dying replica left half written is dropped, and an error event follows, because
the openai client takes an early end for a finished answer. Closing an `EventStream` closes the connection to vLLM,
which ends that generation. Knows nothing of Flask (gateway/inference.py) and does not decide what may be sent.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from gateway.replicas import Balancer, Directory
from shared import carried, routing
from shared.errors import InvalidRequest, Unavailable
from shared.records import Deployment
from shared.routing import Endpoint

log = logging.getLogger(__name__)

#: A replica is on our own network: one that takes longer to accept is gone.
CONNECT_SECONDS = 2.0
#: Longest silence of a replica: as long as the openai client itself waits.
READ_SECONDS = 600.0
#: vLLM's server closes idle connections after 5 s: one kept for less is never closed under our request.
KEEP_ALIVE_SECONDS = 3.0
#: A request that brings replicas down must not get to bring all of them down.
MAX_TRIES = 3
DONE = b"data: [DONE]"


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
    #: Whom it is for: a route sends all requests of one user to one target. Empty: not told.
    user: str = ""

    def body_for(self, replica: Endpoint) -> bytes:
        if self.given is None and replica.served_name == self.model and not replica.carries:
            return self.body
        given = json.loads(self.body) if self.given is None else self.given
        return json.dumps(carried.into(given, replica.carries, self.path) | {"model": replica.served_name}).encode()


@dataclass(frozen=True, kw_only=True)
class Usage:
    #: None where the answer did not tell it.
    prompt_tokens: int | None = None
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    content_type: str
    #: The whole body, or an `EventStream` that must be closed.
    body: bytes | EventStream


class Meter(Protocol):
    """Where the numbers of one answer go."""

    def first_token(self, model: str, seconds: float) -> None: ...
    def finished(self, model: str, usage: Usage) -> None: ...


class NullMeter:
    """Counts nothing."""

    def first_token(self, model: str, seconds: float) -> None:
        pass

    def finished(self, model: str, usage: Usage) -> None:
        pass


class NoReplica(Unavailable):
    """No replica of this model is ready."""


def make_client() -> httpx.Client:
    """One pool for all threads of a gateway process, as many connections as there are requests."""
    # It would log every request a second time.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return httpx.Client(
        timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=None),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=KEEP_ALIVE_SECONDS),
        # Replicas are reached directly, whatever proxy the environment names.
        trust_env=False,
    )


class Proxy:
    """Sends calls to replicas: chooses one, tries another while nothing was answered, counts what came back."""

    def __init__(self, directory: Directory, client: httpx.Client, meter: Meter, balancer: Balancer | None = None):
        self._directory = directory
        self._client = client
        self._meter = meter
        self.balancer = balancer or Balancer()

    def find(self, project_id: str, name: str, user: str = "") -> Deployment | None:
        """The deployment that answers to `name` this time."""
        return self._directory.find(project_id, name, user)

    def send(self, call: Call) -> Answer:
        """Raises NoReplica when none is ready, Unavailable when those that were tried failed, InvalidRequest when vLLM
        refuses the request."""
        tried: set[str] = set()
        deployment = self._directory.find(call.project_id, call.model, call.user)
        while deployment and len(tried) < MAX_TRIES and (replica := self._choose(call, deployment, tried)) is not None:
            tried.add(replica.id)
            try:
                return self._ask(replica, call)
            except httpx.ReadTimeout as error:
                raise Unavailable(
                    "the replica of {model!r} did not answer in {seconds:.0f} s",
                    model=call.model,
                    seconds=READ_SECONDS,
                ) from error
            except httpx.TransportError as error:
                self._leave_out(replica, call, error)
        if tried:
            raise Unavailable(
                "the replica of {model!r} went away before it answered; it is being replaced", model=call.model
            )
        raise NoReplica(f"no replica of {call.model!r} is ready")

    def _choose(self, call: Call, deployment: Deployment, tried: set[str]) -> Endpoint | None:
        return self.balancer.take(routing.endpoints(self._directory.fleet(call.project_id), deployment), tried)

    def _leave_out(self, replica: Endpoint, call: Call, error: Exception) -> None:
        self.balancer.eject(replica)
        self._directory.forget(call.project_id)
        log.warning(
            "Replica %s failed before its first byte: %s",
            replica.id,
            error or type(error).__name__,
            extra={"replica_id": replica.id, "request_id": call.request_id, "model": call.model},
        )

    def _ask(self, replica: Endpoint, call: Call) -> Answer:
        """The replica is given back when its answer is complete: at once here, by the stream otherwise."""
        handed_on = False
        started_at = time.monotonic()
        response: httpx.Response | None = None
        try:
            response = self._client.send(self._request(replica, call), stream=True)
            _check(response, call)
            if call.stream:
                answer = self._begin_stream(replica, call, response, started_at)
                handed_on = True
                return answer
            body = response.read()
            self._meter.finished(call.model, _usage(body))
            return Answer(status=response.status_code, content_type=_content_type(response), body=body)
        finally:
            if not handed_on:
                if response is not None:
                    response.close()
                self.balancer.give_back(replica)

    def _request(self, replica: Endpoint, call: Call) -> httpx.Request:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "X-Request-Id": call.request_id}
        if replica.api_key:
            headers["Authorization"] = f"Bearer {replica.api_key}"
        body = call.body_for(replica)
        return self._client.build_request("POST", f"{replica.url}{call.path}", content=body, headers=headers)

    def _begin_stream(self, replica: Endpoint, call: Call, response: httpx.Response, started_at: float) -> Answer:
        """Waits for the first bytes: until they are there another replica could still be asked."""
        chunks = response.iter_raw()
        first = next(chunks, b"")
        if not first:
            raise httpx.RemoteProtocolError("it ended the stream before its first event")
        self._meter.first_token(call.model, time.monotonic() - started_at)

        def finished(usage: Usage) -> None:
            self.balancer.give_back(replica)
            self._meter.finished(call.model, usage)

        stream = EventStream(response, first, chunks, call, finished)
        return Answer(status=response.status_code, content_type=_content_type(response), body=stream)


class EventStream:
    """Whole server-sent events as they come from a replica. An iterator of its own, not a generator: a generator that
    was closed before its first step would not run its `finally`, and the connection would stay."""

    def __init__(
        self,
        response: httpx.Response,
        first: bytes,
        chunks: Iterator[bytes],
        call: Call,
        finished: Callable[[Usage], None],
    ):
        self._response = response
        self._first: bytes | None = first
        self._chunks = chunks
        self._call = call
        self._finished = finished
        self._pending = b""
        self._num_events = 0
        self._usage: Usage | None = None
        self._done = False
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._closed:
            raise StopIteration
        try:
            while not (events := self._whole_events(self._read())):
                pass
        except StopIteration:
            self.close()
            if self._done:
                raise
            return _lost(self._call)
        except (httpx.HTTPError, httpx.StreamError) as error:
            log.warning("A stream broke: %s", error, extra={"request_id": self._call.request_id})
            self.close()
            return _lost(self._call)
        self._look(events)
        return events

    def close(self) -> None:
        """Ends the generation in vLLM if it is still running."""
        if self._closed:
            return
        self._closed = True
        self._response.close()
        self._finished(self._usage or Usage(completion_tokens=self._num_events))

    def _read(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return next(self._chunks)

    def _whole_events(self, chunk: bytes) -> bytes:
        """`chunk` up to the end of its last whole event, after what was left before."""
        if not self._pending and chunk.endswith(b"\n\n"):
            return chunk
        data = self._pending + chunk
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            end = 0
        self._pending = data[end:]
        return data[:end]

    def _look(self, events: bytes) -> None:
        """Without `include_usage` every event counts as one token: vLLM sends one per step of its engine, so this is
        the number to within the first (role) and the last event. No JSON is parsed for it."""
        self._num_events += events.count(b"\n\n")
        if DONE in events:
            self._done = True
            self._num_events -= 1
        if self._call.include_usage and b'"usage":{' in events:
            for event in events.split(b"\n\n"):
                if b'"usage":{' in event:
                    self._usage = _usage(event.removeprefix(b"data: "))


def _check(response: httpx.Response, call: Call) -> None:
    """Turns a refusal by vLLM into our own error, whose envelope clients know."""
    if response.status_code < 400:
        return
    if response.status_code in (401, 403, 404):
        # Another server on a port that was freed, or one that serves other models than its row says.
        raise httpx.RemoteProtocolError(f"it answered {response.status_code}")
    message, field = _refusal(response.read())
    if response.status_code >= 500:
        raise Unavailable("the replica of {model!r} failed: {message}", model=call.model, message=message)
    raise InvalidRequest(message, field=field)


def _refusal(body: bytes) -> tuple[str, str | None]:
    try:
        error = json.loads(body)["error"]
        return str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        return body.decode(errors="replace")[:1000], None


def _usage(body: bytes) -> Usage:
    try:
        told: dict[str, Any] = json.loads(body)["usage"]
        return Usage(prompt_tokens=told["prompt_tokens"], completion_tokens=told.get("completion_tokens") or 0)
    except (ValueError, KeyError, TypeError):
        return Usage()


def _content_type(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "application/json"))


def _lost(call: Call) -> bytes:
    """An event that makes the openai client raise; without it a broken stream would look like a short answer."""
    error = {
        "message": f"the replica of {call.model!r} went away while it answered; send the request again",
        "type": "server_error",
        "param": None,
        "code": "upstream_lost",
    }
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
