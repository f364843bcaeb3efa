"""Repairs what nobody holds any more: jobs and replicas of workers that went silent, wake-ups that were lost.

A lease is a beat that moves, watched by the sweep's own monotonic clock: clocks of machines are never compared. What
was seen lives in this process; a sweep that starts anew waits one more lease before it takes anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING

from shared.errors import TunesmithError
from shared.metrics.counted import Metrics
from shared.queue import Queue
from shared.scaling import Scaler
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.store import Store

log = logging.getLogger(__name__)

#: A worker that did not beat for this many leases is no longer shown.
FORGET_LEASES = 20


class Watch:
    """For how long each beat has stood still."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        #: By holder: its last beat, and when that was first seen.
        self._seen: dict[Hashable, tuple[Hashable, float]] = {}

    def ages_seconds(self, beats: Iterable[tuple[Hashable, Hashable]]) -> dict[Hashable, float]:
        """Seconds since each beat last moved, as far as this process knows; who is not named is forgotten."""
        now = self._clock()
        seen = {}
        for holder, beat in beats:
            before = self._seen.get(holder)
            seen[holder] = before if before is not None and before[0] == beat else (beat, now)
        self._seen = seen
        return {holder: now - since for holder, (_, since) in seen.items()}


class Sweep:
    def __init__(self, store: Store, settings: Settings, queue: Queue, metrics: Metrics):
        self._store = store
        self._settings = settings
        self._queue = queue
        self._metrics = metrics
        self._jobs = Watch()
        self._replicas = Watch()
        self._nodes = Watch()
        self._workers = Watch()
        self._scaler = Scaler()

    def sweep(self) -> None:
        with self._metrics.sweep_duration.time():
            try:
                self._sweep()
            except Exception:
                self._metrics.sweeps.labels("failed").inc()
                raise
        self._metrics.sweeps.labels("completed").inc()
        self._metrics.sweep_last_success.set_to_current_time()

    def _sweep(self) -> None:
        self.reclaim_jobs()
        self.strike_off_nodes()
        self.reclaim_replicas()
        self.scale_deployments()
        self.send_again()
        self.forget_workers()
        self._store.sweeps.note()

    def reclaim_jobs(self) -> None:
        held = {(job.job_id, job.attempt): job for job in self._store.attempts.held()}
        ages = self._jobs.ages_seconds((key, job.beat) for key, job in held.items())
        self._metrics.lease_age.set(max(ages.values(), default=0.0))
        for key, job in held.items():
            if ages[key] < self._settings.lease_seconds:
                continue
            reason = f"worker {job.worker_id} was silent for {ages[key]:.0f} s"
            try:
                left = self._store.attempts.reclaim(job.job_id, job.attempt, job.beat, reason)
            except TunesmithError as error:
                log.info("Not reclaimed: %s", error, extra={"job_id": job.job_id})  # it moved in the meantime
                continue
            self._metrics.leases_lost.labels("job").inc()
            self._metrics.leave_job(left)
            log.warning("Reclaimed a job: %s", reason, extra={"job_id": job.job_id, "attempt": job.attempt})

    def strike_off_nodes(self) -> None:
        """Their leader then ends the attempt; one that never came is not reserved again."""
        held = {node[:3]: node for node in self._store.members.held()}
        ages = self._nodes.ages_seconds((key, node.beat) for key, node in held.items())
        for key, node in held.items():
            if ages[key] < self._settings.lease_seconds:
                continue
            try:
                self._store.members.lose(node, f"worker {node.worker_id} was silent for {ages[key]:.0f} s")
            except TunesmithError as error:
                log.info("Not struck off: %s", error, extra={"job_id": node.job_id})
                continue
            self._metrics.leases_lost.labels("node").inc()
            log.warning("Lost node %d of a job", node.node_rank, extra={"job_id": node.job_id})

    def reclaim_replicas(self) -> None:
        held = {(replica.replica_id, replica.attempt): replica for replica in self._store.replicas.held()}
        ages = self._replicas.ages_seconds((key, replica.beat) for key, replica in held.items())
        for key, replica in held.items():
            if ages[key] < self._settings.lease_seconds:
                continue
            reason = f"worker {replica.worker_id} was silent for {ages[key]:.0f} s"
            try:
                self._store.replicas.reclaim(replica.replica_id, replica.attempt, replica.beat, reason)
            except TunesmithError as error:
                log.info("Not reclaimed: %s", error, extra={"replica_id": replica.replica_id})
                continue
            self._metrics.leases_lost.labels("replica").inc()
            log.warning("Reclaimed a replica: %s", reason, extra={"replica_id": replica.replica_id})

    def scale_deployments(self) -> None:
        """By load and by whether anybody asks; and what a worker that ended in the middle would have started or
        stopped."""
        deployments = self._store.deployments.running()
        for deployment in deployments:
            self._store.deployments.settle(deployment)
        for deployment, step in self._scaler.steps(deployments):
            if self._store.deployments.rescale(
                deployment.id, before=deployment.num_wanted, num_wanted=step.num_wanted, type=step.type, why=step.why
            ):
                log.info("Scaled a deployment: %s", step.why, extra={"deployment_id": deployment.id})

    def send_again(self) -> None:
        """A wake-up for each kind that waits, where none is under way: the queue stays short whatever happens."""
        for kind, count in self._store.jobs.queue_depth().items():
            if count and self._queue.depth(kind) == 0:
                self._queue.send("", kind)

    def forget_workers(self) -> None:
        """By whether they are seen anew, not by when they say that they were: clocks jump, and differ."""
        ages = self._workers.ages_seconds((worker.id, worker.seen_at) for worker in self._store.workers.list())
        for worker_id, age_seconds in ages.items():
            if age_seconds > FORGET_LEASES * self._settings.lease_seconds:
                self._store.workers.remove(str(worker_id))
                log.info("Forgot a worker that is gone", extra={"worker_id": worker_id})
