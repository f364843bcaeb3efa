"""The replicas that a generation job may ask, as its worker writes them down, and how busy we keep each."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from shared import carried

FILE = "replicas.json"
READ_SECONDS = 1.0
#: One that broke a connection is left alone for so long.
EJECT_SECONDS = 5.0
#: A long answer from a busy CPU takes minutes.
ANSWER_SECONDS = 1800.0


@dataclass(frozen=True, kw_only=True)
class Replica:
    id: str
    url: str
    api_key: str
    #: What it calls the model.
    served_name: str
    load: float
    #: See shared/carried.py.
    carries: dict[str, Any] = field(default_factory=dict)


class Replicas:
    """For many threads."""

    def __init__(self, folder: Path):
        self._path = folder / FILE
        self._lock = threading.Lock()
        self._known: list[Replica] = []
        self._read_at = float("-inf")
        self._busy: Counter[str] = Counter()
        self._ejected_until: dict[str, float] = {}
        limits = httpx.Limits(max_connections=None, keepalive_expiry=3.0)
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=5.0, pool=None)
        self._client = httpx.Client(timeout=timeout, limits=limits, trust_env=False)

    def num_ready(self) -> int:
        with self._lock:
            return len(self._usable())

    def ask(self, path: str, body: dict[str, Any]) -> httpx.Response | None:
        """The answer of the least busy replica; None when there is none, or it broke: then ask again later."""
        replica = self._take()
        if replica is None:
            return None
        try:
            headers = {"Authorization": f"Bearer {replica.api_key}"}
            asked = carried.into(body, replica.carries, path) | {"model": replica.served_name}
            answer = self._client.post(replica.url + path, json=asked, headers=headers)
        except httpx.TransportError:
            self._eject(replica)
            return None
        finally:
            with self._lock:
                self._busy[replica.id] -= 1
        if answer.status_code in (401, 404) or answer.status_code >= 500:
            # Not ours any more, or its engine has just died: no fault of the row.
            self._eject(replica)
            return None
        return answer

    def close(self) -> None:
        self._client.close()

    def _take(self) -> Replica | None:
        with self._lock:
            usable = self._usable()
            if not usable:
                return None
            chosen = min(usable, key=lambda replica: self._busy[replica.id])
            self._busy[chosen.id] += 1
            return chosen

    def _usable(self) -> list[Replica]:
        now = time.monotonic()
        if now - self._read_at > READ_SECONDS:
            self._read_at = now
            self._known = [Replica(**told) for told in json.loads(self._path.read_text())]
        return [replica for replica in self._known if self._ejected_until.get(replica.id, now) <= now]

    def _eject(self, replica: Replica) -> None:
        with self._lock:
            self._ejected_until[replica.id] = time.monotonic() + EJECT_SECONDS
