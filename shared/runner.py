"""A worker's side of the ledger: claims jobs that fit this machine and sees each to its end, one after another.

`look` is what a message, a start or the sweep asks for: it runs whatever the ledger says is next until nothing is
left. It does not know what a job computes (that is its kind's `Work`) nor how a message came (shared/service.py).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from shared import devices, folder, requirements
from shared.errors import TunesmithError
from shared.lease import LEDGER_AWAY
from shared.requirements import Device
from shared.settings import Settings
from shared.supervise import Supervisor
from shared.telemetry import Metrics
from shared.work import Finish, Phase, Run, Work

if TYPE_CHECKING:
    from shared.artifact import ArtifactStore
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

    @property
    def machine(self) -> tuple[Device, ...]:
        return self.known or tuple(Device(id=name) for name in self.devices)


class Runner:
    def __init__(
        self, store: Store, artifacts: ArtifactStore, settings: Settings, worker: Worker, metrics: Metrics | None = None
    ):
        self._store = store
        self._artifacts = artifacts
        self._settings = settings
        self._worker = worker
        self._works = {work.kind: work for work in worker.works}
        self._metrics = metrics or Metrics(CollectorRegistry())
        self._stopping = threading.Event()
        self._looking = threading.Lock()

    def look(self) -> None:
        """Run jobs until none is left for this worker, or it shall stop. One thread at a time; others wait."""
        with self._looking:
            while not self._stopping.is_set() and (claim := self._claim()) is not None and self._run(claim):
                pass

    def stop(self) -> None:
        """The running job is checkpointed and goes back to the queue; nothing new is claimed. Safe in a handler."""
        self._stopping.set()

    @property
    def is_busy(self) -> bool:
        return self._looking.locked()

    def _claim(self) -> Claim | None:
        names = devices.free(self._settings.run_dir, self._worker.devices)
        if self._worker.devices and not names:
            log.info("No device is free; the sweep asks again", extra={"worker_id": self._worker.id})
            return None
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
        context = {"job_id": claim.job.id, "attempt": claim.attempt, "worker_id": self._worker.id}
        log.info("Claimed %s job", claim.job.kind, extra=context)
        try:
            run = Run(
                job=claim.job,
                attempt=claim.attempt,
                folder=folder.make(self._settings, claim.job, claim.attempt),
                secrets=claim.secrets,
                settings=self._settings,
                store=self._store,
                artifacts=self._artifacts,
            )
            work = self._works[claim.job.kind]
            fit = requirements.fitting(claim.job.requires, self._worker.machine)
            names = tuple(device.id for device in fit)
            Supervisor(run, work, names, self._metrics, self._stopping).supervise()
        except (*LEDGER_AWAY, TunesmithError, OSError):
            # The edge of an attempt: without renewals the sweep takes the job and gives it to somebody else. A full
            # disk must not take every queued job along, one after another.
            log.exception("The attempt could not be supervised to its end", extra=context)
            return False
        return True
