"""One request on its way to a replica, and its answer: what gateway/proxy.py carries."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.eventstream import DONE, EventStream
from gateway.patience import Client
from shared import carried
from shared.answer_room import Room
from shared.routing import Endpoint


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
    #: How a line of the last event of its stream begins.
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
