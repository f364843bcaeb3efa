"""Which replicas of a deployment start and which stop next: a pure function of its record, asked after every change.

A changed spec is a new generation, whose replicas come up beside those of the one before. One of the old is drained for
each new one that is ready, so that as many answer as before; the first start of the new that fails takes the deployment
back to the spec that still serves. `update_order: stop-first` drains before it starts, for machines without a device
to spare. How many replicas there shall be is decided by their load (shared/scaling.py) or by the spec.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from shared.records import Deployment, Replica

STOP_FIRST = "stop-first"
#: Of `Deployment.rollout`: under way, finished, taken back.
RUNNING, DONE, ROLLED_BACK = "running", "done", "rolled_back"
#: Parameters that no replica reads: changing them starts none anew.
LIVE = frozenset({
    "replicas", "min_replicas", "max_replicas", "target_ongoing_requests", "upscale_delay_seconds",
    "downscale_delay_seconds", "idle_timeout_seconds", "update_order", "generation",
    "max_concurrent_requests", "request_timeout_seconds", "wake_timeout_seconds",
})  # fmt: skip
#: Of the wanted replicas, those that may come up at once in an update.
SURGE = 0.25


@dataclass(frozen=True, kw_only=True)
class Moves:
    """What is to be done now."""

    #: Replicas of the current generation to start.
    start: int = 0
    #: Ids of those that nobody wants any more.
    stop: tuple[str, ...] = ()
    #: Why the current generation cannot serve: back to the one before.
    failure: str | None = None
    #: Whether an update has come to its end.
    is_done: bool = False


def target(deployment: Deployment) -> int:
    """Replicas of its own that it shall have now."""
    if deployment.wanted != "running" or deployment.host_id is not None:
        return 0
    spec = deployment.spec
    return int(spec.get("replicas", 1)) if deployment.num_wanted is None else deployment.num_wanted


def moves(deployment: Deployment) -> Moves:
    wanted = target(deployment)
    live = [one for one in deployment.replicas if one.wanted == "running" and one.status != "stopped"]
    new = [one for one in live if one.generation == deployment.generation]
    old = [one for one in live if one.generation != deployment.generation]
    is_running = (deployment.rollout or {}).get("status") == RUNNING
    if is_running and (failed := next((one for one in new if one.status == "failed"), None)) is not None:
        return Moves(failure=failed.error or "its replica failed")
    serving = [one for one in old if one.status == "ready"]
    if serving and wanted:
        return _exchanged(deployment, new, old, {name for one in serving for name in one.adapters})
    ready = [one for one in new if one.status == "ready"]
    surplus = _first_to_go(new)[: max(0, len(new) - wanted)]
    return Moves(
        start=max(0, wanted - len(new)),
        stop=tuple(one.id for one in (*old, *surplus)),
        is_done=is_running and len(ready) >= wanted,
    )


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    names = sorted(before.keys() | after.keys())
    return [name for name in names if before.get(name) != after.get(name)]


def _exchanged(
    deployment: Deployment, new: Sequence[Replica], old: Sequence[Replica], carried: Collection[str]
) -> Moves:
    """One step of an update while replicas of the generation before answer. A new one takes the place of an old only
    when it has the adapters that are loaded there, or has said why not."""
    wanted = target(deployment)
    at_once = max(1, ceil(wanted * SURGE))
    ready = [
        one for one in new if one.status == "ready" and set(carried) <= {*one.adapters, *one.adapter_errors}
    ]  # fmt: skip
    coming = len(new) - len(ready)
    start = min(wanted - len(new), at_once - coming)
    kept = wanted - len(ready)
    if deployment.spec.get("update_order") == STOP_FIRST:
        kept -= at_once
        # Also those that are being drained have their devices still.
        start = min(start, wanted - sum(one.status != "stopped" for one in deployment.replicas))
    going = [*_first_to_go(old)[: max(0, len(old) - max(0, kept))], *_first_to_go(new)[: max(0, len(new) - wanted)]]
    return Moves(start=max(0, start), stop=tuple(one.id for one in going))


def _first_to_go(replicas: Sequence[Replica]) -> list[Replica]:
    return sorted(replicas, key=lambda one: (one.status == "ready", -one.ordinal))
