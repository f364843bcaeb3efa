"""What the ledger and the broker know better than any process, read from them at each scrape. For the gateway."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from shared import rollout
from shared.lease import LEDGER_AWAY
from shared.metrics.impatient import Impatient
from shared.metrics.read import gauge, single
from shared.records import Worker
from shared.requirements import CPU

if TYPE_CHECKING:
    from shared.store import Store
    from shared.store.engine import Database

log = logging.getLogger(__name__)

#: A worker that did not beat for this long does not count.
SILENT_SECONDS = 60.0
#: Below, at and above priority 0.
PRIORITY_CLASSES = ("low", "normal", "high")
KINDS = ("train", "export", "generate", "evaluate", "push")


class LedgerCollector(Collector):
    """Jobs, queue, workers, devices and deployments. While the ledger is away it says that, and nothing else."""

    def __init__(self, store: Store, impatient: Impatient | None = None, kinds: Iterable[str] = KINDS):
        self._store = store
        self._impatient = impatient or Impatient()
        self._kinds = tuple(kinds)

    def describe(self) -> Iterable[Metric]:
        return ()  # registering must not ask the ledger

    def collect(self) -> Iterable[Metric]:
        try:
            told = self._impatient.ask(self._told)
        except (*LEDGER_AWAY, OSError) as error:  # a time-out, or the file of an SQLite ledger
            log.warning("The ledger cannot be reached: %s", type(error).__name__)
            return single("ledger_up", 0)
        return [*told, *single("ledger_up", 1)]

    def _told(self) -> list[Metric]:
        return [*self._jobs(), *self._queue(), *self._workers(), *self._deployments(), *self._moments()]

    def _jobs(self) -> Iterator[Metric]:
        counts = self._store.jobs.counts().items()
        yield from gauge("jobs", (((str(kind), str(status)), count) for (kind, status), count in counts))

    def _queue(self) -> Iterator[Metric]:
        """By classes of priority, of which there are three, whatever users ask for."""
        waiting = self._store.jobs.queue_waits()
        pairs = [(kind, name) for kind in self._kinds for name in PRIORITY_CLASSES]
        yield from gauge("queue_depth", ((pair, waiting.get(pair, (0, 0.0))[0]) for pair in pairs))
        yield from gauge("queue_oldest_wait_seconds", ((pair, waiting.get(pair, (0, 0.0))[1]) for pair in pairs))

    def _workers(self) -> Iterator[Metric]:
        known = self._store.workers.list()
        alive = [worker for worker in known if worker.age_seconds < SILENT_SECONDS]
        kinds = (*self._kinds, "replica")
        yield from gauge("workers", (((kind,), sum(kind in worker.kinds for worker in alive)) for kind in kinds))
        yield from gauge("worker_info", (((worker.id, worker.host, worker.version), 1) for worker in known))
        yield from gauge("worker_last_beat_age_seconds", (((worker.id,), worker.age_seconds) for worker in known))
        states = _states(alive)
        yield from gauge("devices", _counted(states).items())
        yield from gauge(
            "kind_devices", ((key, count) for kind in kinds for key, count in _of_kind(kind, alive, states))
        )

    def _deployments(self) -> Iterator[Metric]:
        running = self._store.deployments.running()
        statuses = Counter(str(deployment.status) for deployment in running)
        yield from gauge("deployments", (((status,), count) for status, count in statuses.items()))
        of = [((one.project_id, one.name), one) for one in running if one.host_id is None]
        yield from gauge("deployment_replicas_wanted", ((who, rollout.target(one)) for who, one in of))
        yield from gauge(
            "deployment_replicas_ready",
            ((who, sum(replica.status == "ready" for replica in one.replicas)) for who, one in of),
        )

    def _moments(self) -> Iterator[Metric]:
        swept = self._store.sweeps.age_seconds()
        yield from single("sweep_age_seconds", math.inf if swept is None else swept)
        if (age := self._store.backups.age_seconds()) is not None:
            yield from single("backup_age_seconds", age)


class BrokerCollector(Collector):
    """Whether the broker answers, and the wake-ups that lie in it. A broker that is away takes a second per scrape."""

    def __init__(self, depth: Callable[[str], int | None], kinds: Iterable[str] = KINDS):
        """`depth`: messages of a kind; None when the broker is away."""
        self._depth = depth
        self._kinds = tuple(kinds)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        found: list[tuple[tuple[str, ...], float]] = []
        for kind in self._kinds:
            if (count := self._depth(kind)) is None:
                return single("broker_up", 0)
            found.append(((kind,), count))
        return [*single("broker_up", 1), *gauge("broker_messages", found)]


class ConnectionCollector(Collector):
    """This process' connections to the ledger."""

    def __init__(self, database: Database):
        self._database = database

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        return single("ledger_connections_in_use", self._database.num_in_use)


def _states(workers: Iterable[Worker]) -> dict[tuple[str, str], bool]:
    """(host, device) -> whether it is held; several workers of a host tell of the same ones."""
    states: dict[tuple[str, str], bool] = {}
    for worker in workers:
        for device in worker.machine.get("devices", ()):
            key = worker.host, str(device["id"])
            states[key] = states.get(key, False) or device.get("held_by") is not None
    return states


def _counted(states: Mapping[tuple[str, str], bool]) -> Counter[tuple[str, str, str]]:
    """(host, type, state) -> how many."""
    counts = Counter({(host, type_of(device), state): 0 for host, device in states for state in ("held", "idle")})
    counts.update((host, type_of(device), "held" if held else "idle") for (host, device), held in states.items())
    return counts


def _of_kind(
    kind: str, workers: Iterable[Worker], states: Mapping[tuple[str, str], bool]
) -> Iterator[tuple[tuple[str, str, str], int]]:
    """(kind, type, state) and how many."""
    hosts = {worker.host for worker in workers if kind in worker.kinds}
    found: Counter[tuple[str, str, str]] = Counter()
    for (_, type, state), count in _counted({key: held for key, held in states.items() if key[0] in hosts}).items():
        found[kind, type, state] += count
    yield from found.items()


def type_of(device: str) -> str:
    return "cpu" if device == CPU else "gpu"
