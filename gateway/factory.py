"""Builds the Flask app from its parts."""

from __future__ import annotations

from flask import Flask
from prometheus_client import CollectorRegistry

from gateway import (
    auth,
    checkpoints,
    compare,
    console,
    datasets,
    deployments,
    downloads,
    evaluations,
    fleet,
    health,
    http,
    inference,
    jobfiles,
    jobs,
    models,
    openapi,
    parameters,
    plans,
    presets,
    previews,
    routes,
    runbook,
    shortcut,
    templates,
    workers,
)
from gateway.keyring import Keyring
from gateway.openai import batches, files, fine_tuning
from gateway.scrapers import Scrapers
from gateway.services import NAME, Services
from gateway.shortcut import Shortcut
from gateway.tailer import Tailer
from shared import tracing
from shared.artifact import ArtifactStore
from shared.metrics import page
from shared.metrics.counted import Metrics
from shared.metrics.impatient import Impatient
from shared.metrics.ledger import BrokerCollector, LedgerCollector
from shared.queue import Queue
from shared.settings import Settings
from shared.store import Store


def create_app(settings: Settings, store: Store | None = None) -> Flask:
    app = Flask("gateway", static_folder=None)
    built = build_services(settings, store)
    app.extensions[NAME] = built
    # Keys in the order in which they are written: answers read like the docs.
    app.json.sort_keys = False  # type: ignore[attr-defined]
    http.install(app)
    auth.install(app)
    api = openapi.install(app)
    # After Api, which brings handlers of its own.
    http.install_handlers(app)
    for module in (
        health, parameters, templates, datasets, previews, jobs, jobfiles, checkpoints, plans, downloads, models,
        evaluations, deployments, fleet, routes, presets, workers, files, fine_tuning, batches,
    ):  # fmt: skip
        api.register_blueprint(module.blueprint)
    proxy = inference.make_proxy(built)
    app.extensions[shortcut.NAME] = Shortcut(built, built.keyring, proxy)
    api.register_blueprint(inference.blueprint(built, proxy))
    api.register_blueprint(compare.blueprint(built, proxy))
    app.register_blueprint(console.blueprint)
    app.register_blueprint(runbook.blueprint)
    return app


def build_services(settings: Settings, store: Store | None = None) -> Services:
    metrics = Metrics(CollectorRegistry(), "gateway")
    store = store or Store(settings.database_url, metrics.observe_transaction)
    artifacts = ArtifactStore(settings.storage_url, settings.run_dir / "cache")
    queue = Queue(settings)
    # One for both: what a scrape has waited for once it does not wait for again.
    impatient = Impatient()
    metrics.registry.register(LedgerCollector(store, impatient))
    metrics.registry.register(BrokerCollector(queue.depth))
    page.add_ledger(metrics.registry, store)
    page.add_disks(metrics.registry, settings, store, artifacts)
    return Services(
        settings=settings,
        store=store,
        artifacts=artifacts,
        queue=queue,
        metrics=metrics,
        tailer=Tailer(store.events.since),
        keyring=Keyring(store.keys.authenticate, store.keys.valid),
        scrapers=Scrapers(store, impatient),
        tracer=tracing.make(settings, "gateway"),
    )
