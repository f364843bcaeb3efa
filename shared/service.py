"""What a Celery worker process of ours is beside Celery: a runner, a beat in the ledger, a metrics server.

Built when the process has started, never at import: `celery -A` imports the module of the app only to find it. The
running service hangs on Celery's own signals; nothing here is specific to a kind of job.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from celery import Celery, signals
from prometheus_client import CollectorRegistry

from shared import devices, logs, nodes, queue, tracing, volumes
from shared.artifact import ArtifactStore
from shared.janitor import Janitor
from shared.lease import LEDGER_AWAY
from shared.metrics import page
from shared.metrics.counted import Metrics
from shared.runner import Runner, Worker
from shared.settings import Settings
from shared.store import Store
from shared.work import Work

log = logging.getLogger(__name__)

#: A wake-up that lies this long in the queue of an idle worker: its consumer is deaf (celery #8091, #10302).
DEAF_SECONDS = 60.0


def serve(
    app: Celery,
    settings: Settings,
    name: str,
    works: Callable[[], Sequence[Work]],
    *,
    needs_devices: bool = True,
    slots: int = 1,
) -> None:
    """Make `app` a worker of ours: its task, and a `Service` as long as its process runs."""
    services: list[Service] = []

    @app.task(name=queue.LOOK, bind=True)  # type: ignore[untyped-decorator]
    def look(task: Any, job_id: str = "") -> None:
        if job_id:  # for whom, of which another worker may have been faster, is all that the message tells
            log.info("Woken for a job", extra={"job_id": job_id, **queue.ids_of(task.request)})
        services[0].runner.look()

    def start(**_: Any) -> None:
        logs.configure(name, settings.log_level)
        services.append(Service(settings, name, works(), needs_devices=needs_devices, slots=slots))

    def ready(**_: Any) -> None:
        services[0].start()

    def stop(**_: Any) -> None:
        services[0].runner.stop()

    def end(**_: Any) -> None:
        services[0].close()

    # Strong references: Celery's signals hold their receivers weakly, and these live nowhere else.
    signals.setup_logging.connect(_keep_ours, weak=False)
    signals.worker_init.connect(_or_exit(start), weak=False)
    signals.worker_ready.connect(_or_exit(ready), weak=False)
    signals.worker_shutting_down.connect(stop, weak=False)
    signals.worker_shutdown.connect(end, weak=False)


class Service:
    def __init__(self, settings: Settings, name: str, works: Sequence[Work], *, needs_devices: bool, slots: int):
        self._settings = settings
        self._name = name
        self._registry = CollectorRegistry()
        metrics = Metrics(self._registry, name)
        metrics.worker_slots.set(slots)
        self._store = Store(settings.database_url, metrics.observe_transaction)
        self._store.await_tables()
        self._store.check_host()
        artifacts = ArtifactStore(settings.storage_url, settings.run_dir / "cache")
        self._storage = artifacts.root
        names = devices.find(settings) if needs_devices else ()
        self._worker = Worker(
            id=settings.worker_id or f"{socket.gethostname()}-{name}",
            works=works,
            devices=names,
            known=devices.known(names),
            labels=tuple(settings.worker_labels),
            storage_id=artifacts.storage_id(),
            host=socket.gethostname(),
            slots=slots,
        )
        self._address = nodes.address(settings)
        page.add_ledger(self._registry, self._store)
        page.add_disks(self._registry, settings, self._store, artifacts)
        page.add_machine(self._registry, settings, devices.find(settings))
        self._janitor = Janitor(self._store, artifacts, settings)
        self._tracer = tracing.make(settings, name)
        self.runner = Runner(self._store, artifacts, settings, self._worker, metrics, self._tracer)
        self._queue = queue.Queue(settings)
        self._closed = threading.Event()
        #: Since when a wake-up lies unfetched though nothing runs; monotonic.
        self._deaf_since: float | None = None

    def start(self) -> None:
        page.serve(self._settings, self._registry)
        self._tell()  # who is not known cannot be reserved, nor kept from what it claims meanwhile
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        threading.Thread(target=self._janitor.run, args=(self._closed,), name="janitor", daemon=True).start()
        for work in self._worker.works:
            # What was queued while no worker ran, whatever became of its message.
            self._queue.send("", work.kind)
        log.info("Worker is ready", extra={"worker_id": self._worker.id, "devices": list(self._worker.devices)})

    def close(self) -> None:
        self.runner.wait()  # Celery waits for looks that it started itself
        self._closed.set()
        try:
            self._store.workers.remove(self._worker.id)
        except LEDGER_AWAY:
            log.warning("The ledger cannot be reached; the sweep forgets this worker")
        self._store.close()
        self._tracer.close()
        log.info("Worker has ended", extra={"worker_id": self._worker.id})

    def _beat(self) -> None:
        while not self._closed.wait(self._settings.renew_seconds):
            self._tell()

    def _tell(self) -> None:
        """One beat. Who is reserved for another's attempt begins with it at once: no message can name one worker."""
        try:
            self._store.workers.beat(
                self._worker.id,
                kinds=[str(work.kind) for work in self._worker.works],
                host=socket.gethostname(),
                devices=list(self._worker.devices),
                storage_id=self._worker.storage_id,
                labels=list(self._worker.labels),
                metrics_url=page.url(self._settings),
                version=version("tunesmith"),
                machine=self._machine(),
                address=self._address,
            )
            if self.runner.is_awaited():
                threading.Thread(target=self.runner.look, name="node").start()
            self._listen()
        except Exception:  # the edge of a thread that must not end
            log.warning("The worker's beat failed", exc_info=True, extra={"worker_id": self._worker.id})

    def _machine(self) -> dict[str, Any]:
        held = devices.holders(self._settings.run_dir, self._worker.devices)
        room = volumes.room(self._settings.run_dir, self._storage)
        return devices.machine(self._worker.machine, held) | {"disk": room}

    def _listen(self) -> None:
        """An idle worker that does not fetch what waits for it ends, to be started again."""
        is_deaf = not self.runner.is_busy and any(self._queue.depth(work.kind) for work in self._worker.works)
        if not is_deaf:
            self._deaf_since = None
            return
        self._deaf_since = self._deaf_since or time.monotonic()
        if time.monotonic() - self._deaf_since > DEAF_SECONDS:
            log.error("The broker's messages do not arrive; ending", extra={"worker_id": self._worker.id})
            os.kill(os.getpid(), signal.SIGTERM)


def _keep_ours(**_: Any) -> None:
    """Connected to `setup_logging`: Celery then leaves the logging alone."""


def _or_exit(build: Callable[..., None]) -> Callable[..., None]:
    """Celery logs what a receiver raises and goes on; a worker without its service must not."""

    def receiver(**named: Any) -> None:
        try:
            build(**named)
        except Exception:  # the edge of the process
            log.exception("The worker cannot start")
            raise SystemExit(1) from None

    return receiver
