"""The replicas that a generation job may ask, as its worker writes them down, and one request to one of them.

Which row goes to which replica is decided elsewhere (child/dispatch.py).
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

FILE = "replicas.json"
READ_SECONDS = 0.5
#: One that broke a connection is left alone for so long.
EJECT_SECONDS = 5.0
#: A long answer from a busy CPU takes minutes.
ANSWER_SECONDS = 1800.0
CONNECT_SECONDS = 5.0
#: A server closes idle connections after 5 s: one kept for less is never closed under our request.
KEEP_ALIVE_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Replica:
    id: str
    url: str
    api_key: str | None = field(repr=False)
    #: What it calls the model.
    served_name: str
    #: Requests that keep it busy.
    seats: int
    #: See shared/carried.py.
    carries: Mapping[str, Any] = field(default_factory=dict)
    #: Whether its beams follow more than vLLM's (shared/sampling.py).
    beams_heed: bool = False


@dataclass(frozen=True, kw_only=True)
class Target:
    """A deployment that answers to a name, and its share of the requests."""

    deployment_id: str
    weight: float
    #: Generation parameters for what a row does not say.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    replicas: Sequence[Replica] = ()


class Known:
    """What the worker last wrote down: by name of a model, who answers to it. For one thread."""

    def __init__(self, folder: Path):
        self._path = folder / FILE
        self._targets: dict[str, list[Target]] = {}
        #: Of these, what can be asked now; found out again when something changed.
        self._usable: dict[str, list[Target]] = {}
        self._read_at = float("-inf")
        self._ejected_until: dict[str, float] = {}

    def targets(self, model: str) -> list[Target]:
        """Those with replicas that can be asked now."""
        if time.monotonic() - self._read_at >= READ_SECONDS:
            self._read_at = time.monotonic()
            self._targets = read(self._path)
            self._usable.clear()
        if model not in self._usable:
            self._usable[model] = [found for target in self._targets.get(model, ()) if (found := self._left(target))]
        return self._usable[model]

    def eject(self, replica_id: str, seconds: float = EJECT_SECONDS) -> None:
        self._ejected_until[replica_id] = time.monotonic() + seconds
        self._usable.clear()

    def _left(self, target: Target) -> Target | None:
        now = time.monotonic()
        replicas = [one for one in target.replicas if self._ejected_until.get(one.id, now) <= now]
        return replace(target, replicas=replicas) if replicas else None


def read(path: Path) -> dict[str, list[Target]]:
    told: dict[str, list[dict[str, Any]]] = json.loads(path.read_text())
    return {
        model: [Target(**target | {"replicas": [Replica(**one) for one in target["replicas"]]}) for target in targets]
        for model, targets in told.items()
    }


class Unreached(Exception):
    """Nobody took the request: it was not even begun."""


class Lost(Exception):
    """The replica went away while it had the request."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int
    body: bytes


class Connections:
    """Kept connections to replicas, for many threads: each request has one to itself.

    Not httpx, whose pool looks through all of its connections for each request: with a thousand of them that takes
    longer than the request.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By address: connections that nobody uses, and since when.
        self._idle: defaultdict[str, list[tuple[HTTPConnection, float]]] = defaultdict(list)

    def post(self, replica: Replica, path: str, body: bytes, request_id: str) -> Reply:
        """Under that id in the replica's log. Raises Unreached, Lost."""
        address = urlsplit(replica.url)
        kept = self._kept(address.netloc)
        if kept is not None:
            try:
                return self._exchange(kept, replica, path, body, request_id)
            except Lost:
                pass  # closed while it was idle, most likely: a fresh one tells
        return self._exchange(self._connect(address.netloc), replica, path, body, request_id)

    def is_well(self, replica: Replica) -> bool:
        """Whether its engine lives, as it says itself."""
        connection = HTTPConnection(urlsplit(replica.url).netloc, timeout=CONNECT_SECONDS)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _kept(self, netloc: str) -> HTTPConnection | None:
        fresh = time.monotonic() - KEEP_ALIVE_SECONDS
        with self._lock:
            idle = self._idle[netloc]
            while idle:
                connection, since = idle.pop()
                if since > fresh:
                    return connection
                connection.close()
        return None

    def _connect(self, netloc: str) -> HTTPConnection:
        connection = HTTPConnection(netloc, timeout=CONNECT_SECONDS)
        try:
            connection.connect()
        except OSError as error:
            raise Unreached(str(error)) from error
        connection.sock.settimeout(ANSWER_SECONDS)
        return connection

    def _exchange(self, connection: HTTPConnection, replica: Replica, path: str, body: bytes, request_id: str) -> Reply:
        netloc = urlsplit(replica.url).netloc
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "X-Request-Id": request_id}
        if replica.api_key:
            headers["Authorization"] = f"Bearer {replica.api_key}"
        try:
            connection.request("POST", urlsplit(replica.url).path + path, body=body, headers=headers)
            answer = connection.getresponse()
            reply = Reply(status=answer.status, body=answer.read())
        except (OSError, HTTPException) as error:
            connection.close()
            raise Lost(str(error) or type(error).__name__) from error
        if answer.will_close:
            connection.close()
        else:
            with self._lock:
                self._idle[netloc].append((connection, time.monotonic()))
        return reply
