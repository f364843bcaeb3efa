"""How much a deployment has to do, how much it may have to do at once, and when asking again is worth while.

Counts what this gateway has in flight; of what other gateways and jobs send it knows what the replicas told the ledger
last. Chooses no replica (gateway/replicas.py).
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from shared.errors import TunesmithError
from shared.routing import Endpoint
from shared.spec.deploy_queue import DeployQueue

#: What vLLM answers at once where `max_num_seqs` is left out.
VLLM_MAX_NUM_SEQS = 256
#: Requests that may wait here for a first token, each in a thread of the server's (gunicorn_conf.py).
MAX_WAITING = 448
#: Answers that the pace is measured on, and how old they may be.
NUM_ANSWERS, PACE_SECONDS = 64, 60.0
#: Least, most, and where nothing was answered yet. The openai client waits for no more than 60.
LEAST_SECONDS, MOST_SECONDS, UNKNOWN_SECONDS = 1, 60, 5


class Overloaded(TunesmithError):
    """More requests are in flight than may be: send it again later."""

    status, code, type, retryable = 429, "rate_limit_exceeded", "rate_limit_error", True

    def __init__(self, template: str, *, retry_after_seconds: int, **values: Any):
        super().__init__(template, **values)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a deployment's spec says about requests."""

    queue: DeployQueue
    max_num_seqs: int = VLLM_MAX_NUM_SEQS

    def slots(self, num_replicas: int) -> int:
        """Requests that are answered at once."""
        return self.max_num_seqs * max(1, num_replicas)

    def most(self, num_replicas: int) -> int:
        return self.queue.max_concurrent_requests or 2 * self.slots(num_replicas)


def limits(spec: Mapping[str, Any]) -> Limits:
    """Specs that were stored before a parameter came have its default."""
    given = {field.name: spec[field.name] for field in fields(DeployQueue) if spec.get(field.name) is not None}
    return Limits(queue=DeployQueue(**given), max_num_seqs=spec.get("max_num_seqs") or VLLM_MAX_NUM_SEQS)


class Congestion:
    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()
        self._answered: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=NUM_ANSWERS))
        self._num_waiting = 0

    def enter(self, key: str, limits: Limits, there: Sequence[Endpoint], name: str) -> None:
        """One more in flight and waiting. `key`: whose replicas they are. Raises Overloaded."""
        with self._lock:
            if self._num_waiting >= MAX_WAITING:
                text = "{count} requests wait in this gateway for an answer: send it again later"
                raise Overloaded(text, count=self._num_waiting, retry_after_seconds=UNKNOWN_SECONDS)
            busy, most = max(self._in_flight[key], sum(replica.load for replica in there)), limits.most(len(there))
            if busy >= most:
                after = self._seconds_until(key, busy - limits.slots(len(there)))
                text = (
                    "{model!r} has {count} requests in flight, as many as may be (max_concurrent_requests): send it "
                    "again in {after} s, or deploy more replicas"
                )
                raise Overloaded(text, model=name, count=most, after=after, retry_after_seconds=after)
            self._in_flight[key] += 1
            self._num_waiting += 1

    def began(self) -> None:
        """One waits no longer: its answer is here, or will not come."""
        with self._lock:
            self._num_waiting -= 1

    def leave(self, key: str, *, answered: bool) -> None:
        with self._lock:
            self._in_flight[key] -= 1
            if self._in_flight[key] <= 0:
                del self._in_flight[key]
            if answered:
                self._answered[key].append(self._clock())

    def num_in_flight(self, key: str) -> int:
        with self._lock:
            return self._in_flight[key]

    def _seconds_until(self, key: str, excess: float) -> int:
        """Until what waits now is being answered, at the pace of the last answers."""
        now = self._clock()
        recent = [at for at in self._answered[key] if now - at <= PACE_SECONDS]
        if len(recent) < 2:
            return UNKNOWN_SECONDS
        seconds = max(1.0, excess) * (now - recent[0]) / len(recent)
        return min(MOST_SECONDS, max(LEAST_SECONDS, math.ceil(seconds)))
