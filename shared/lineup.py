"""The queue as it stands: in which order its jobs will be claimed, by which workers, and about when.

The order is the claim's (shared/store/claims.py), told for the whole queue at once: each job is marked with what its
owner and project will have had when its turn comes, as if nothing finished meanwhile; sorting by these marks is what
claiming one after another gives. When jobs start is a guess from how fast the running ones get on and how long others
of their kind took. Pure functions: the ledger is read elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shared import requirements
from shared.records import Worker

#: A device that is held now weighs as if it had been used for so long already.
AHEAD_SECONDS = 3600.0
#: How many jobs of the queue are told when they start: further ahead a guess says nothing.
MAX_FORESEEN = 1000

Who = tuple[str, str]


class Need(NamedTuple):
    """What a waiting job asks of a worker; jobs of equal needs wait for the same workers."""

    kind: str
    num_devices: int
    storage_id: str | None
    #: As requirements.key writes it.
    gpu_kind: str | None
    min_gpu_memory_gib: float | None
    accelerator: str | None
    labels: tuple[str, ...] = ()

    def are_met_by(self, worker: Worker) -> bool:
        """With all of its devices free."""
        return (
            self.kind in worker.kinds
            and set(self.labels) <= set(worker.labels)
            and self.storage_id in (None, worker.storage_id)
            and requirements.are_met(self.requires, requirements.of_worker(worker))
        )

    @property
    def requires(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if value is not None}


class Waiting(NamedTuple):
    """A queued job; the snapshot has them oldest first."""

    id: str
    project_id: str
    owner: str
    priority: int
    need: Need
    reserved_host: str | None = None


@dataclass(frozen=True, kw_only=True)
class Running:
    id: str
    project_id: str
    kind: str
    worker_id: str
    #: Seconds that it will still take; None: nothing is known.
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class Balance:
    """What everybody has had of the devices lately; whoever is not there has had nothing."""

    #: (project, owner) -> device-seconds, those ahead included.
    used: Mapping[Who, float] = field(default_factory=dict)
    #: Shares that are not 1.
    owner_shares: Mapping[str, float] = field(default_factory=dict)
    project_shares: Mapping[str, float] = field(default_factory=dict)

    def of_owner(self, who: Who) -> float:
        return self.used.get(who, 0.0) / self.owner_shares.get(who[1], 1.0)

    def of_projects(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for (project_id, _), seconds in self.used.items():
            found[project_id] = found.get(project_id, 0.0) + seconds / self.project_shares.get(project_id, 1.0)
        return found


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What the ledger says of queue and workers at one moment."""

    waiting: Sequence[Waiting] = ()
    running: Sequence[Running] = ()
    balance: Balance = Balance()
    #: Those that reported themselves lately.
    workers: Sequence[Worker] = ()
    #: Kind -> how long its jobs took lately (median), seconds.
    usual_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a job stands among those that wait for the same workers."""

    #: 1 for the next.
    position: int
    need: Need
    #: The workers that could take it.
    workers: Sequence[Worker]
    #: The one that will, as far as that can be told, and in how many seconds.
    worker: Worker | None = None
    seconds: float | None = None
    reserved_host: str | None = None


class Lineup:
    """The whole queue in order; `place` tells of one job."""

    def __init__(self, snapshot: Snapshot):
        self.snapshot = snapshot
        self.running = {job.worker_id: job for job in snapshot.running}
        self._left = {job.id: job.seconds_left for job in snapshot.running}
        ordered = in_order(snapshot.waiting, snapshot.balance)
        self._waiting = {job.id: job for job in ordered}
        self._able = {need: self._workers_for(need) for need in {job.need for job in ordered}}
        self._positions = self._count(ordered)
        self._starts = self._foresee(ordered[:MAX_FORESEEN])

    def place(self, job_id: str) -> Place | None:
        """None: it is not waiting."""
        job = self._waiting.get(job_id)
        if job is None:
            return None
        worker, seconds = self._starts.get(job_id, (None, None))
        return Place(
            position=self._positions[job_id],
            need=job.need,
            workers=self._able[job.need],
            worker=worker,
            seconds=seconds,
            reserved_host=job.reserved_host,
        )

    def _workers_for(self, need: Need) -> tuple[Worker, ...]:
        return tuple(worker for worker in self.snapshot.workers if need.are_met_by(worker))

    def _count(self, ordered: Iterable[Waiting]) -> dict[str, int]:
        """Positions: ahead is who comes earlier and waits for one of the same workers."""
        rivals = {need: frozenset(self._rivals(need)) for need in self._able}
        lines = {need: [line for line in set(rivals.values()) if need in line] for need in self._able}
        earlier = dict.fromkeys(rivals.values(), 0)
        positions = {}
        for job in ordered:
            for line in lines[job.need]:
                earlier[line] += 1
            positions[job.id] = earlier[rivals[job.need]]
        return positions

    def _rivals(self, need: Need) -> list[Need]:
        """Needs that one of the same workers meets; where none does, those of the same kind that none meets."""
        mine = {worker.id for worker in self._able[need]}
        if not mine:
            return [other for other, able in self._able.items() if not able and other.kind == need.kind]
        return [other for other, able in self._able.items() if any(worker.id in mine for worker in able)]

    def _foresee(self, ordered: Iterable[Waiting]) -> dict[str, tuple[Worker, float]]:
        """Which worker will take each job, and in how many seconds, where both can be told."""
        free_in = {worker.id: self._free_in(worker) for worker in self.snapshot.workers}
        ready = {(need, worker.id): self.devices_in(need, worker) for need in self._able for worker in self._able[need]}
        starts = {}
        for job in ordered:
            known = [
                (max(idle, devices), index)
                for index, worker in enumerate(self._able[job.need])
                if (idle := free_in[worker.id]) is not None and (devices := ready[job.need, worker.id]) is not None
            ]
            if not known:
                continue
            seconds, index = min(known)
            worker = self._able[job.need][index]
            starts[job.id] = worker, seconds
            usual = self.snapshot.usual_seconds.get(job.need.kind)
            free_in[worker.id] = None if usual is None else seconds + usual
        return starts

    def _free_in(self, worker: Worker) -> float | None:
        running = self.running.get(worker.id)
        return 0.0 if running is None else running.seconds_left

    def devices_in(self, need: Need, worker: Worker) -> float | None:
        """In how many seconds enough of the worker's devices are free; None: not known."""
        if not need.num_devices:
            return 0.0
        fit = {device.id for device in requirements.fitting(need.requires, requirements.of_worker(worker))}
        told = [device for device in worker.machine.get("devices", ()) if device["id"] in fit]
        times = [self._device_in(device.get("held_by")) for device in told] or [0.0]
        known = sorted(seconds for seconds in times if seconds is not None)
        most = len(times) if len(times) >= need.num_devices else 1  # a CPU is one device for any number
        wanted = min(need.num_devices, most)
        return known[wanted - 1] if len(known) >= wanted else None

    def _device_in(self, holder: Mapping[str, Any] | None) -> float | None:
        """A replica holds its devices for as long as it is wanted."""
        return 0.0 if holder is None else self._left.get(str(holder.get("id")))


def in_order(waiting: Iterable[Waiting], balance: Balance) -> list[Waiting]:
    """The jobs as they would be claimed one after another; `waiting` is oldest first."""
    used, marked = dict(balance.used), []
    for age, job in enumerate(sorted(waiting, key=lambda job: -job.priority)):  # stable: the oldest stay first
        who = (job.project_id, job.owner)
        before = used.get(who, 0.0)
        marked.append((-job.priority, before / balance.owner_shares.get(job.owner, 1.0), age, job))
        used[who] = before + AHEAD_SECONDS * (job.need.num_devices or 1)
    marked.sort()  # an age is there once: jobs themselves are never compared
    projects, tagged = balance.of_projects(), []
    for priority, owner, age, job in marked:
        project = projects.get(job.project_id, 0.0)
        tagged.append((priority, project, owner, age, job))
        ahead = AHEAD_SECONDS * (job.need.num_devices or 1)
        projects[job.project_id] = project + ahead / balance.project_shares.get(job.project_id, 1.0)
    tagged.sort()
    return [tag[-1] for tag in tagged]
