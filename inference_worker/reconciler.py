"""The loop of the inference worker: gives each replica that nobody holds a thread, and waits for none of them."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from importlib.metadata import version

from inference_worker.counting import Standing
from inference_worker.replica import Life, Worker
from shared import devices, fitting, requirements, serving
from shared.errors import TunesmithError
from shared.lease import LEDGER_AWAY
from shared.records import Replica
from shared.requirements import Device

log = logging.getLogger(__name__)

#: How soon a new deployment is seen.
TICK_SECONDS = 1.0
#: vLLM processes are killed at once when they are drained; this is for ledger and disk.
SHUTDOWN_SECONDS = 60.0


class Reconciler:
    def __init__(self, worker: Worker, worker_id: str, metrics_url: str | None):
        self._worker = worker
        self._id = worker_id
        self._metrics_url = metrics_url
        self._storage_id = worker.artifacts.storage_id()
        self._lives: dict[str, tuple[Life, threading.Thread]] = {}
        self._machine = devices.known(tuple(worker.gpus) or (devices.CPU,))
        self._beaten_at = float("-inf")
        #: Formats that are left to workers whose machines serve them.
        self._left_out: list[str] = []

    def run(self) -> None:
        """Until `worker.stopping` is set; then every replica is drained, stopped and released."""
        while not self._worker.stopping.is_set():
            try:
                self._tick()
            except LEDGER_AWAY as error:
                log.warning("The ledger cannot be reached: %s", type(error).__name__)
            self._worker.stopping.wait(TICK_SECONDS)
        self._shut_down()

    def standings(self) -> list[Standing]:
        return [life.standing for life, _ in list(self._lives.values())]

    def _tick(self) -> None:
        self._beat()
        self._lives = {id: (life, thread) for id, (life, thread) in self._lives.items() if thread.is_alive()}
        claim_next = self._worker.store.replicas.claim_next
        while (replica := claim_next(self._id, self._storage_id, self._left_out, self._fits)) is not None:
            self._begin(replica)

    def _beat(self) -> None:
        if time.monotonic() - self._beaten_at < self._worker.settings.renew_seconds:
            return
        names = [device.id for device in self._machine]
        held = devices.holders(self._worker.settings.run_dir, names)
        self._worker.store.workers.beat(
            self._id,
            kinds=["replica"],
            host=socket.gethostname(),
            devices=names,
            storage_id=self._storage_id,
            metrics_url=self._metrics_url,
            version=version("tunesmith"),
            machine=devices.machine(self._machine, held),
        )
        self._beaten_at = time.monotonic()
        self._left_out = serving.left_to(self._others(), self._machine)

    def _others(self) -> list[list[Device]]:
        """Devices of the other workers that serve deployments now, by worker."""
        workers, patience = self._worker.store.workers.list(), self._worker.settings.lease_seconds
        living = (one for one in workers if "replica" in one.kinds and one.age_seconds < patience)
        return [requirements.of_worker(one) for one in living if one.id != self._id]

    def _fits(self, replica: Replica) -> bool:
        """On GPUs: as many as it takes are free. Should somebody be faster, it waits for them in its own thread."""
        gpus = self._worker.gpus
        promised = sum(life.num_awaited for life, _ in self._lives.values())
        return fitting.fits(replica.spec, gpus, promised, devices.free(self._worker.settings.run_dir, gpus))

    def _begin(self, replica: Replica) -> None:
        try:
            life = Life(replica, self._worker)
        except TunesmithError as error:
            log.exception("A replica's spec cannot be read", extra={"replica_id": replica.id})
            self._worker.store.replicas.release(replica.id, replica.attempt, error=error.message)
            return
        thread = threading.Thread(target=life.live, name=replica.id)
        self._lives[replica.id] = (life, thread)
        thread.start()

    def _shut_down(self) -> None:
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        for _, thread in self._lives.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(*LEDGER_AWAY):  # else the sweep forgets this worker
            self._worker.store.workers.remove(self._id)
