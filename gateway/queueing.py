"""Where a queued job stands, when it starts and what it waits for, in words.

The whole queue is read and put in order at once and kept for CACHE_SECONDS: a page of jobs, or many clients that poll,
ask the ledger once. What is not known is null: no estimate where no past job tells how long its kind takes, none for
jobs that wait for replicas or for several nodes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from gateway import suitors
from shared import requirements
from shared.job import Job, Status
from shared.lineup import Lineup, Place
from shared.records import Worker
from shared.tongues import Text, chinese

if TYPE_CHECKING:
    from gateway.services import Services

CACHE_SECONDS = 1.0


class Lineups:
    """The queue in order, as it was a moment ago. One per gateway process."""

    def __init__(self) -> None:
        self._reading = threading.Lock()
        self._lineup: Lineup | None = None
        self._read_at = float("-inf")

    def place(self, services: Services, job_id: str) -> Place | None:
        with self._reading:
            lineup = self._fresh(services)
            found = lineup.place(job_id)
            if found is None:  # queued since then
                self._lineup = None
                found = self._fresh(services).place(job_id)
        return found

    def current(self, services: Services) -> Lineup:
        with self._reading:
            return self._fresh(services)

    def forget(self) -> None:
        """The queue was changed here."""
        with self._reading:
            self._lineup = None

    def _fresh(self, services: Services) -> Lineup:
        if self._lineup is None or time.monotonic() - self._read_at > CACHE_SECONDS:
            self._lineup = Lineup(services.store.queued.snapshot(suitors.alive(services)))
            self._read_at = time.monotonic()
        return self._lineup


def told(services: Services, job: Job) -> dict[str, Any] | None:
    """`queue` of a job: None when it does not wait."""
    if job.status != Status.QUEUED:
        return None
    place = services.lineups.place(services, job.id)
    if place is None:  # claimed while we looked
        return None
    reason = _reason(services, job, place)
    seconds = place.seconds if int(job.requires.get("num_nodes") or 1) == 1 else None
    start = None if seconds is None else datetime.now(UTC) + timedelta(seconds=round(seconds))
    return {
        "position": place.position,
        "ahead": place.position - 1,
        "estimated_start": start.isoformat(timespec="seconds") if start else None,
        "reason": reason,
        "reason_zh": chinese.sentence(reason),
    }


def _reason(services: Services, job: Job, place: Place) -> Text:
    lineup = services.lineups.current(services)
    of_kind = [worker for worker in lineup.snapshot.workers if job.kind in worker.kinds]
    if not of_kind:
        return Text("No {kind} worker reports itself: the job waits until one does.", kind=job.kind)
    if not place.workers:
        return suitors.unmet(job.requires, of_kind)
    nodes, able = int(job.requires.get("num_nodes") or 1), len(place.workers)
    if able < nodes:
        told = "{wanted} workers with as many devices are wanted, {able} report themselves: the job waits for more."
        return Text(told, wanted=nodes, able=able)
    if place.reserved_host is not None:
        text = "Host {host} is kept for it until {wanted} are free."
        return Text(text, host=place.reserved_host, wanted=requirements.described(job.requires))
    if place.position > 1:
        text = "{ahead} job(s) are ahead of it for {able} worker(s) that can take it."
        return Text(text, ahead=place.position - 1, able=able)
    if nodes > 1:
        return Text("It is next, as soon as {wanted} workers are idle at once.", wanted=nodes)
    return _next(job, place, lineup)


def _next(job: Job, place: Place, lineup: Lineup) -> Text:
    """What the first in line waits for: the worker that is free soonest, as far as that is known."""
    worker = place.worker or place.workers[0]
    running = lineup.running.get(worker.id)
    if running is not None:
        name = _named(job, running.id, running.project_id)
        text = "It is next, when worker {worker} is done with {name}{left}."
        return Text(text, worker=worker.id, name=name, left=_left(running.seconds_left))
    seconds, holders = lineup.devices_in(place.need, worker), _holders(worker)
    if seconds != 0.0 and holders:
        known = {other.id: other for other in lineup.snapshot.running}
        text = "It waits for {wanted} on worker {worker}; taken by {names}{left}."
        names = ", ".join(_held_by(job, holder, known) for holder in holders)
        wanted = requirements.described(job.requires)
        return Text(text, wanted=wanted, worker=worker.id, names=names, left=_left(seconds))
    return Text("It is next: worker {worker} is free and takes it within seconds.", worker=worker.id)


def _holders(worker: Worker) -> list[Mapping[str, Any]]:
    told = [device.get("held_by") or {} for device in worker.machine.get("devices", ())]
    return list({holder["id"]: holder for holder in told if holder.get("id")}.values())


def _held_by(job: Job, holder: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Ids of other projects' jobs are nobody's business."""
    running = known.get(holder["id"])
    if running is None:
        return str(holder.get("kind", "another process"))
    return _named(job, running.id, running.project_id)


def _named(job: Job, other_id: str, project_id: str) -> str:
    return other_id if project_id == job.project_id else "another project's job"


def _left(seconds: float | None) -> Text:
    if seconds is None:
        return Text("")
    if seconds < 90:
        return Text(", in about {seconds} s", seconds=max(1, round(seconds)))
    return Text(", in about {minutes} min", minutes=round(seconds / 60))
