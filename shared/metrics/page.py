"""The page that Prometheus reads: what a service registers beside what it counts, and the port of a worker."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from shared.artifact import ArtifactStore
from shared.metrics.ledger import ConnectionCollector
from shared.metrics.machine import DeviceCollector, DiskCollector, GpuCollector
from shared.settings import Settings
from shared.store import Store


def add_disks(registry: CollectorRegistry, settings: Settings, store: Store, artifacts: ArtifactStore) -> None:
    """The room where this service writes; artifacts in S3 have none to tell."""
    places = {"run": settings.run_dir, "artifacts": artifacts.root, "ledger": store.database.file}
    registry.register(DiskCollector({name: place for name, place in places.items() if place is not None}))


def add_machine(registry: CollectorRegistry, settings: Settings, names: Sequence[str]) -> None:
    """The GPUs, and which of the devices of these names are held."""
    registry.register(GpuCollector())
    registry.register(DeviceCollector(settings.run_dir, names))


def add_ledger(registry: CollectorRegistry, store: Store) -> None:
    """The pool of connections to it."""
    registry.register(ConnectionCollector(store.database))


def url(settings: Settings) -> str | None:
    """Where `serve` tells the metrics."""
    return f"http://{settings.metrics_host}:{settings.metrics_port}/metrics" if settings.metrics_port else None


def serve(settings: Settings, registry: CollectorRegistry) -> tuple[WSGIServer, threading.Thread] | None:
    """Serve /metrics from a thread of this process until `shutdown()`; None where `metrics_port` is 0."""
    if not settings.metrics_port:
        return None
    return start_http_server(settings.metrics_port, addr=settings.metrics_host, registry=registry)
