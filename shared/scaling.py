"""How many replicas a deployment wants, by its spec, its load and whether anybody asks.

With `max_replicas` the number follows the load; with `idle_timeout_seconds` it goes to 0 when nobody asks, and the next
request brings it back. Who looks is the sweep (shared/sweep.py); gateways only say that they were asked.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from shared import rollout
from shared.records import Deployment
from shared.tongues import Text


def is_scaled(spec: Mapping[str, Any]) -> bool:
    """Whether the number of replicas follows the load."""
    return spec.get("max_replicas") is not None


def within(spec: Mapping[str, Any], count: int) -> int:
    """The nearest number that the spec allows while it is in use."""
    low = max(1, int(spec.get("min_replicas") or 1))
    return max(low, min(count, int(spec["max_replicas"]))) if is_scaled(spec) else count


def woken(spec: Mapping[str, Any]) -> int | None:
    """What is wanted when a request comes to one that sleeps; None: what the spec says."""
    return within(spec, 1) if is_scaled(spec) else None


def resized(before: Deployment, spec: Mapping[str, Any]) -> int | None:
    """What is wanted under another spec; None: what it says. A number of replicas that the user changes is meant."""
    is_meant = spec.get("replicas") != before.spec.get("replicas")
    if before.num_wanted == 0 and not is_meant and spec.get("idle_timeout_seconds") is not None:
        return 0
    if not is_scaled(spec):
        return None
    now = before.num_wanted or int(before.spec.get("replicas", 1))
    return within(spec, int(spec.get("replicas", 1)) if is_meant else now)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Another number of replicas."""

    num_wanted: int
    #: Of the event: "scaled" or "idle".
    type: str
    why: Text


class Scaler:
    """What has been seen of each deployment's load, by one clock: a sweep that starts anew looks on for as long again
    before it changes anything."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        #: By deployment: when how many replicas would have been enough.
        self._enough: dict[str, deque[tuple[float, int]]] = {}
        #: By deployment: what changes while it is used, and since when it has not.
        self._still: dict[str, tuple[Hashable, float]] = {}

    def steps(self, deployments: Sequence[Deployment]) -> list[tuple[Deployment, Step]]:
        """What is to change now; who is not among them is forgotten."""
        ids = {deployment.id for deployment in deployments}
        self._enough = {id: seen for id, seen in self._enough.items() if id in ids}
        self._still = {id: seen for id, seen in self._still.items() if id in ids}
        found = [(deployment, self._step(deployment)) for deployment in deployments]
        return [(deployment, step) for deployment, step in found if step is not None]

    def _step(self, deployment: Deployment) -> Step | None:
        idle_seconds = self._idle_seconds(deployment)
        is_changing = (deployment.rollout or {}).get("status") == rollout.RUNNING
        if deployment.num_wanted == 0 or deployment.host_id is not None or is_changing:
            self._enough.pop(deployment.id, None)
            return None
        patience = deployment.spec.get("idle_timeout_seconds")
        if patience is not None and idle_seconds >= patience:
            why = Text("No request for {seconds} s: the replicas are stopped", seconds=round(patience))
            return Step(num_wanted=0, type="idle", why=why)
        return self._by_load(deployment) if is_scaled(deployment.spec) else None

    def _idle_seconds(self, deployment: Deployment) -> float:
        """Since a request last named it, a replica worked on one, or its replicas came or went."""
        now = self._clock()
        is_busy = any(one.load for one in deployment.replicas)
        state: Hashable = (deployment.asked_at, *((one.id, one.status) for one in deployment.replicas))
        before = self._still.get(deployment.id)
        if is_busy or before is None or before[0] != state:
            self._still[deployment.id] = (state, now)
        return now - self._still[deployment.id][1]

    def _by_load(self, deployment: Deployment) -> Step | None:
        """More when more would have been needed all the time of one delay, fewer when fewer were enough all the time
        of the other: the two differ, so that it does not swing."""
        spec, now, current = deployment.spec, self._clock(), rollout.target(deployment)
        ready = [one for one in deployment.replicas if one.status == "ready"]
        if not ready:
            return None
        load, each = sum(one.load for one in ready), int(spec["target_ongoing_requests"])
        seen = self._enough.setdefault(deployment.id, deque())
        seen.append((now, within(spec, ceil(load / each))))
        up, down = float(spec["upscale_delay_seconds"]), float(spec["downscale_delay_seconds"])
        least, most = _over(seen, now - up, min), _over(seen, now - down, max)
        while len(seen) > 1 and seen[1][0] <= now - max(up, down):
            seen.popleft()
        wanted = least if least is not None and least > current else most
        if wanted is None or wanted == current or (wanted > current and wanted != least):
            return None
        seen.clear()
        text = "{before} -> {after} replicas: {load} requests at once, {each} are meant for each"
        why = Text(text, before=current, after=wanted, load=round(load), each=each)
        return Step(num_wanted=wanted, type="scaled", why=why)


def _over(seen: Sequence[tuple[float, int]], since: float, pick: Callable[[Iterable[int]], int]) -> int | None:
    """The least or most since then; None: it has not been looked at for so long."""
    return pick(count for at, count in seen if at >= since) if seen[0][0] <= since else None
