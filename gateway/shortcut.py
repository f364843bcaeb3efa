"""The short way of a stream: the server's loop reads the request, sends it on and carries the answer, without a thread
and without Flask, as long as nothing has to be waited for but the replica.

Before the first token each request costs CPU time, and when many come at once they wait for each other: on this way it
is a third. It makes no refusal of its own: a request in which anything is wrong, unusual or not yet known here goes
the ordinary way (gateway/inference.py) as if it had never been here, and so does one whose replica did not answer.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from gateway import generation, http, inference
from gateway.eventstream import EventStream, too_slow
from gateway.generation import PRESET
from gateway.http1 import Asked
from gateway.inference import STREAM_HEADERS, Services
from gateway.keyring import Keyring
from gateway.patience import Client, TooLong
from gateway.proxy import Opened, Proxy
from shared import correlation, strict_json
from shared.asking import CHAT, COMPLETIONS, GUIDED, RESPONSES
from shared.correlation import Origin
from shared.errors import TunesmithError
from shared.records import ApiKey
from shared.tracing import Span

log = logging.getLogger(__name__)

#: Key among the app's extensions.
NAME = "tunesmith-shortcut"
PATHS = frozenset({CHAT, COMPLETIONS, RESPONSES})
#: Longest body and longest head: what is read of one takes the loop a millisecond or two.
MAX_BODY_BYTES, MAX_HEAD_BYTES = 1 << 14, 1 << 13
#: What nobody can tell in passing how long it takes to check, or is in the ledger.
ELSEWHERE = frozenset({PRESET, "tools", "functions", "response_format", "structured_outputs", "text", *GUIDED})
#: A request with one of these wants something of its server that is gunicorn's to do.
UNUSUAL = frozenset({"expect", "upgrade", "content-encoding"})


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A request that was sent to its replica."""

    opened: Opened
    services: Services
    path: str
    model: str
    request_id: str
    project_id: str
    span: Span
    began_at: float

    def answered(self, first: bytes) -> tuple[EventStream, dict[str, str]]:
        """Its stream and the headers of its answer, as its first bytes are there."""
        content_type = self.opened.exchange.content_type
        try:
            stream = self.opened.begun(first)
        except Exception as error:
            self._over(error)
            raise
        try:
            return stream, {"Content-Type": content_type, **STREAM_HEADERS, **self._told()}
        except Exception:
            stream.close()
            raise

    def _told(self) -> dict[str, str]:
        """Tells of the request that it is answered; the headers that say which it is."""
        metrics, seconds = self.services.metrics, time.monotonic() - self.began_at
        metrics.http_requests_in_progress.dec()
        metrics.labelled(metrics.streams, "short").inc()
        self.span.tell(http__response__status_code=200, project_id=self.project_id)
        self.span.end()
        ids = {"request_id": self.request_id, "trace_id": correlation.trace_id(self.span.traceparent)}
        http.note(metrics, "POST", self.path, self.path, 200, seconds, **correlation.filled(**ids))
        return {"x-request-id": self.request_id, "X-Content-Type-Options": "nosniff"}

    def ended(self, why: Exception | None) -> TunesmithError | None:
        """It was not answered here: what its client is told; None: it is asked once more."""
        if isinstance(why, TooLong):
            why = too_slow(self.model, self.opened.seconds)
        self.opened.ended(why)
        self._over(why)
        return why if isinstance(why, TunesmithError) else None

    def _over(self, why: Exception | None) -> None:
        self.services.metrics.http_requests_in_progress.dec()
        self.span.end(error=type(why).__name__ if why else "asked once more")


class Shortcut:
    def __init__(self, services: Services, keyring: Keyring, proxy: Proxy):
        self._services = services
        self._keyring = keyring
        self._proxy = proxy

    def begin(self, asked: Asked, client: Client) -> Begun | None:
        """The request, sent; None: it goes the ordinary way, and nothing has happened yet."""
        if not is_plain(asked) or (key := self._key(asked)) is None:
            return None
        try:
            return self._begin(asked, key, client)
        except (TunesmithError, UnicodeDecodeError):
            return None
        except Exception:  # the edge of the loop, which all streams hang on; a thread's failure is one client's
            log.exception("A request could not go the short way")
            return None

    def _begin(self, asked: Asked, key: ApiKey, client: Client) -> Begun | None:
        given = strict_json.loads(asked.body.decode("utf-8-sig"))
        if not is_simple(given):
            return None
        inference.check(asked.target, given)
        services, project_id = self._services, key.project_id
        known = self._proxy.known(project_id, given["model"], inference.user_of(given))
        if known is None:
            return None
        fleet, deployment = known
        settled = generation.settled(services.store, project_id, given, deployment, asked.target)
        request_id = http.named(asked.headers.get("x-request-id", ""))
        parent = asked.headers.get("traceparent", "")
        span = http.span_of(services.tracer, "POST", asked.target, asked.target, parent, request_id)
        origin = Origin(request_id=request_id, traceparent=span.traceparent)
        told: dict[str, Any] = {"path": asked.target, "project_id": project_id, "origin": origin, "client": client}
        call = inference.make_call(given, asked.body, deployment, settled, **told)
        if (opened := self._proxy.open(call, fleet, deployment)) is None:
            return None
        services.metrics.http_requests_in_progress.inc()
        return Begun(
            opened=opened, services=services, path=asked.target, model=call.model, request_id=request_id,
            project_id=project_id, span=span, began_at=call.began_at,
        )  # fmt: skip

    def _key(self, asked: Asked) -> ApiKey | None:
        scheme, _, secret = asked.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.isascii():
            return None
        key = self._keyring.known(secret.strip())
        return key if key is not None and key.role != "viewer" else None


def is_plain(asked: Asked) -> bool:
    """Of a request whose head is there: whether it could go the short way."""
    if asked.method != "POST" or asked.target not in PATHS or _length(asked) > MAX_BODY_BYTES:
        return False
    kind = asked.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    return kind == "application/json" and UNUSUAL.isdisjoint(asked.headers)


def is_simple(given: Any) -> bool:
    """Whether a glance is enough to check the body."""
    return isinstance(given, dict) and given.get("stream") is True and ELSEWHERE.isdisjoint(given)


def _length(asked: Asked) -> int:
    length = asked.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 9 else MAX_BODY_BYTES + 1
