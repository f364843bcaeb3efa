"""A worker's side of the ledger: claims jobs that fit this machine and sees each to its end, one after another.

`look` is what a message, a start or the sweep asks for: it runs whatever the ledger says is next until nothing is
left. It does not know what a job computes (that is its kind's `Work`) nor how a message came (shared/service.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from shared import correlation, devices, folder, nodes, requirements
from shared.correlation import Origin
from shared.errors import TunesmithError
from shared.journey import Journey
from shared.lease import LEDGER_AWAY
from shared.membership import Membership
from shared.metrics.counted import Metrics
from shared.nodes import Node
from shared.requirements import Device
from shared.settings import Settings
from shared.store.members import num_nodes
from shared.supervise import Supervisor
from shared.tracing import NoTracer, Tracer
from shared.work import Finish, Phase, Run, Work

if TYPE_CHECKING:
    from shared.artifact import ArtifactStore
    from shared.member import Member
    from shared.records import Claim
    from shared.store import Store

__all__ = ["Finish", "Phase", "Run", "Runner", "Work", "Worker"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Who looks for jobs, and what it can do."""

    id: str
    works: Sequence[Work]
    #: Devices of this machine to take jobs on; empty: only jobs that need none.
    devices: tuple[str, ...] = ()
    #: The same with kind and memory, where they were found out.
    known: tuple[Device, ...] = ()
    labels: tuple[str, ...] = ()
    storage_id: str
    host: str | None = None
    #: Jobs that it does at once: above 1 only of kinds that need no device.
    slots: int = 1

    @property
    def machine(self) -> tuple[Device, ...]:
        return self.known or tuple(Device(id=name) for name in self.devices)


class Runner:
    def __init__(
        self,
        store: Store,
        artifacts: ArtifactStore,
        settings: Settings,
        worker: Worker,
        metrics: Metrics | None = None,
        tracer: Tracer | None = None,
    ):
        self._store = store
        self._artifacts = artifacts
        self._settings = settings
        self._worker = worker
        self._works = {work.kind: work for work in worker.works}
        self._metrics = metrics or Metrics(CollectorRegistry())
        self._tracer = tracer or NoTracer()
        #: Nothing new is begun.
        self._ending = threading.Event()
        #: What runs has to stop, too.
        self._stopping = threading.Event()
        self._slots = threading.Semaphore(worker.slots)
        #: Threads that look, or run what they have found.
        self._busy: set[int] = set()

    def look(self) -> None:
        """Run jobs until none is left for this worker, or it shall stop. One thread for each slot; others wait."""
        with self._slots:
            self._busy.add(threading.get_ident())
            try:
                while not self._ending.is_set() and self._do_next():
                    pass
            finally:
                self._busy.discard(threading.get_ident())

    def stop(self) -> None:
        """Nothing new is claimed; the running job is checkpointed and goes back to the queue, unless it ends in time.

        Safe in a handler.
        """
        self._ending.set()
        if self._settings.finish_seconds <= 0:
            self._stopping.set()
            return
        last = threading.Timer(self._settings.finish_seconds, self._stopping.set)
        last.daemon = True
        last.start()

    @property
    def is_busy(self) -> bool:
        return bool(self._busy)

    def wait(self) -> None:
        """Until nothing runs: for who must not end before."""
        for _ in range(self._worker.slots):
            self._slots.acquire()
        self._slots.release(self._worker.slots)

    def is_awaited(self) -> bool:
        """Whether another worker has reserved this one, which does nothing."""
        return not self.is_busy and self._reservation() is not None

    def _do_next(self) -> bool:
        """The part in another's attempt that this worker is reserved for, else a job of its own. False: enough."""
        if (reserved := self._reservation()) is not None:
            with correlation.bound(**self._ids(reserved[0])):
                return self._take_part(*reserved)
        began = time.time()
        if (claim := self._claim()) is None:
            return False
        parent = Origin.of(claim.job.request).traceparent
        self._tracer.start("claim", parent, at=began, job_id=claim.job.id, worker_id=self._worker.id).end()
        with correlation.bound(**self._ids(claim)):
            return self._run(claim)

    def _reservation(self) -> tuple[Claim, Member] | None:
        try:
            return self._store.members.reservation(self._worker.id)
        except LEDGER_AWAY:
            return None

    def _claim(self) -> Claim | None:
        names = devices.free(self._settings.run_dir, self._worker.devices)
        if self._worker.devices and not names:
            text = "No device is free: only jobs that need none; the sweep asks again"
            log.info(text, extra={"worker_id": self._worker.id})
        try:
            return self._store.attempts.claim_next(
                worker_id=self._worker.id,
                kinds=tuple(self._works),
                free=[device for device in self._worker.machine if device.id in names],
                machine=self._worker.machine,
                labels=self._worker.labels,
                storage_id=self._worker.storage_id,
                host=self._worker.host,
            )
        except LEDGER_AWAY:
            log.warning("The ledger cannot be reached; the sweep asks again", exc_info=True)
            return None

    def _run(self, claim: Claim) -> bool:
        """False when this machine should not take another job right now."""
        log.info("Claimed %s job", claim.job.kind)
        kind = str(claim.job.kind)
        self._metrics.begin_job(kind, _waited_seconds(claim))
        try:
            work = self._works[claim.job.kind]
            run = self._prepared(claim, Node(count=num_nodes(claim.job)))
            machine, journey = self._fit(claim), self._journey(claim)
            Supervisor(run, work, machine, self._metrics, self._stopping, journey).supervise()
        except (*LEDGER_AWAY, TunesmithError, OSError):
            # The edge of an attempt: without renewals the sweep takes the job and gives it to somebody else. A full
            # disk must not take every queued job along, one after another.
            log.exception("The attempt could not be supervised to its end")
            return False
        finally:
            self._metrics.end_attempt(kind)
        return True

    def _journey(self, claim: Claim) -> Journey:
        job, origin = claim.job, Origin.of(claim.job.request)
        told = self._ids(claim) | {"job_kind": str(job.kind), "job_name": job.name, "project_id": job.project_id}
        return Journey(self._tracer, origin.traceparent, **told, waited_seconds=_waited_seconds(claim))

    def _ids(self, claim: Claim) -> dict[str, Any]:
        """What every line about an attempt has."""
        of_attempt = {"job_id": claim.job.id, "attempt": claim.attempt, "worker_id": self._worker.id}
        return of_attempt | Origin.of(claim.job.request).ids()

    def _take_part(self, claim: Claim, member: Member) -> bool:
        """As of `_run`, for an attempt that another worker leads."""
        log.info("Reserved as node %d", member.node_rank)
        try:
            if member.status != "reserved":  # by this worker before it died: static ranks cannot come back
                text = f"worker {self._worker.id} was started anew"
                self._store.members.leave(member, "lost", {"code": "worker_lost", "message": text, "field": None})
                return True
            work = self._works[claim.job.kind]
            run = self._prepared(claim, Node(rank=member.node_rank, count=num_nodes(claim.job)))
            Membership(run, member, work, self._fit(claim), self._stopping).serve()
        except (*LEDGER_AWAY, TunesmithError, OSError):
            log.exception("The node could not be supervised to its end")
            return False
        return True

    def _fit(self, claim: Claim) -> tuple[str, ...]:
        """The devices that the job may have."""
        return tuple(device.id for device in requirements.fitting(claim.job.requires, self._worker.machine))

    def _prepared(self, claim: Claim, node: Node) -> Run:
        """With its folder made; nodes have theirs where all see them."""
        shared = nodes.place(self._artifacts) if node.count > 1 else None
        return Run(
            job=claim.job,
            attempt=claim.attempt,
            folder=folder.make(self._settings, claim.job, claim.attempt, shared, node.rank),
            secrets=claim.secrets,
            node=node,
            shared=folder.path(self._settings, claim.job, claim.attempt, shared) if node.rank else None,
            settings=self._settings,
            store=self._store,
            artifacts=self._artifacts,
        )


def _waited_seconds(claim: Claim) -> float | None:
    """From the job's creation to its first claim; None: it was claimed before."""
    job = claim.job
    return (job.started_at - job.created_at).total_seconds() if job.started_at and claim.attempt == 1 else None
