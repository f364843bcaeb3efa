"""`python -m inference_worker`: keeps this machine's share of the deployments running until SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading

from prometheus_client import CollectorRegistry

from inference_worker.counting import Counts, ReplicaCollector
from inference_worker.reconciler import Reconciler
from inference_worker.replica import Worker
from shared import devices, interpreters, logs, tracing
from shared.artifact import ArtifactStore
from shared.metrics import page
from shared.metrics.counted import Metrics
from shared.settings import Settings
from shared.store import Store


def main(settings: Settings) -> None:
    logs.configure("inference", settings.log_level)
    # It would log every probe of every replica.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Refuse early: without vLLM every replica would fail.
    interpreters.inference(settings)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    metrics = Metrics(CollectorRegistry(), "inference")
    store = Store(settings.database_url, metrics.observe_transaction)
    store.await_tables()
    store.check_host()
    worker = Worker(
        store=store,
        artifacts=ArtifactStore(settings.storage_url, settings.run_dir / "cache"),
        settings=settings,
        counts=Counts(metrics),
        gpus=tuple(name for name in devices.find(settings) if name != devices.CPU),
        stopping=stopping,
        tracer=tracing.make(settings, "inference"),
    )
    reconciler = Reconciler(worker, settings.worker_id or f"{socket.gethostname()}-inference", page.url(settings))
    metrics.registry.register(ReplicaCollector(reconciler.standings))
    page.add_ledger(metrics.registry, store)
    page.add_disks(metrics.registry, settings, store, worker.artifacts)
    page.add_machine(metrics.registry, settings, devices.find(settings))
    page.serve(settings, metrics.registry)
    reconciler.run()
    worker.tracer.close()
    store.close()


if __name__ == "__main__":
    main(Settings.from_env())
    logging.shutdown()
    # Every replica is released. Not sys.exit: it would wait for downloads that nobody wants any more.
    os._exit(0)
