"""The beat service: `celery -A shared.beat worker -B -Q housekeeping -c 1 --pool threads`. One per platform.

It sweeps, and does nothing else: behind a training, in the same worker, a sweep would wait for hours.
"""

from __future__ import annotations

import ctypes
import signal
from typing import Any

from celery import Celery, signals
from prometheus_client import CollectorRegistry

from shared import keeper, logs, queue
from shared.metrics import page
from shared.metrics.counted import Metrics
from shared.settings import Settings
from shared.store import Store
from shared.sweep import Sweep


def make_app(settings: Settings) -> Celery:
    app = queue.make_app(settings)
    app.conf.update(
        task_default_queue=queue.HOUSEKEEPING,
        beat_schedule={
            queue.SWEEP: {
                "task": queue.SWEEP,
                "schedule": settings.sweep_seconds,
                # After an outage of the broker one sweep does what a hundred would.
                "options": {"queue": queue.HOUSEKEEPING, "expires": settings.sweep_seconds},
            }
        },
        # One interval needs no memory: the default writes a file into the working directory.
        beat_scheduler="celery.beat:Scheduler",
        beat_max_loop_interval=settings.sweep_seconds,
    )
    sweeps: list[Sweep] = []

    @app.task(name=queue.SWEEP)  # type: ignore[untyped-decorator]
    def sweep() -> None:
        sweeps[0].sweep()

    def start(**_: Any) -> None:
        logs.configure("beat", settings.log_level)
        metrics = Metrics(CollectorRegistry(), "beat")
        store = Store(settings.database_url, metrics.observe_transaction)
        page.add_ledger(metrics.registry, store)
        sweeps.append(Sweep(store, settings, queue.Queue(settings), metrics))
        page.serve(settings, metrics.registry)

    signals.setup_logging.connect(_keep_ours, weak=False)
    signals.worker_init.connect(start, weak=False)
    signals.beat_embedded_init.connect(_end_with_worker, weak=False)
    return app


def _keep_ours(**_: Any) -> None:
    """Connected to `setup_logging`: Celery then leaves the logging alone."""


def _end_with_worker(**_: Any) -> None:
    """The scheduler is a process beside the worker's: it must not outlive one that was killed."""
    ctypes.CDLL(None).prctl(keeper.PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


app = make_app(Settings.from_env())
