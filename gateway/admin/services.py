"""Which processes make the platform on one machine: name, command line, and how each is stopped. Pure: starts nothing.

The same commands as in compose.yaml, so that a platform started by `tunesmith up` differs from one in containers by
its settings only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from shared.records import Worker
from shared.settings import Settings

#: Generation jobs at once: one may wait for its model while others go on.
GENERATIONS = 4
#: Kinds of work, and the service that does it.
WORKERS = {
    "train": "trainer", "evaluate": "trainer", "export": "export", "push": "export", "generate": "generate",
    "replica": "inference",
}  # fmt: skip
#: How long beat and broker may take to end after SIGTERM.
GRACE_SECONDS = 15.0

#: Workers say nothing to each other. A heartbeat besides waits for a broker that is away, and a worker that was told to
#: end with it: it did not end until it was killed (measured).
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")


@dataclass(frozen=True, kw_only=True)
class Service:
    name: str
    argv: tuple[str, ...]
    #: Settings of this service alone, by their variable.
    env: dict[str, str] = field(default_factory=dict)
    #: Low is stopped first, equals together: workers write to ledger and broker until their end, and the gateway
    #: shows it.
    rank: int
    #: From SIGTERM until it is killed.
    grace_seconds: float = GRACE_SECONDS


def without_workers(alive: Iterable[Worker]) -> dict[str, str]:
    """Kinds of work that none of them does, each with the service that would."""
    there = {kind for worker in alive for kind in worker.kinds}
    return {kind: service for kind, service in WORKERS.items() if kind not in there}


def services(settings: Settings, metrics_ports: dict[str, int]) -> list[Service]:
    """All but the broker, in the order in which they start."""
    # A training writes its checkpoint first and may take pause_timeout_seconds for it.
    job_seconds = settings.finish_seconds + settings.pause_timeout_seconds + 30.0
    celery = [
        ("beat", "shared.beat", "housekeeping", 1, GRACE_SECONDS),
        ("train", "trainer_worker.tasks", "train,evaluate", 0, job_seconds),
        ("export", "export_worker.tasks", "export,push", 0, job_seconds),
        ("generate", "inference_worker.tasks", "generate", 0, job_seconds),
    ]
    grace = settings.drain_seconds + GRACE_SECONDS / 3
    made = [Service(name="gateway", argv=_gunicorn(), rank=2, grace_seconds=grace)]
    for name, module, queue, rank, seconds in celery:
        env = _metrics(metrics_ports[name])
        argv = _celery(name, module, queue, GENERATIONS if name == "generate" else 1)
        made.append(Service(name=name, argv=argv, env=env, rank=rank, grace_seconds=seconds))
    argv = (sys.executable, "-m", "inference_worker")
    made.append(
        Service(name="inference", argv=argv, env=_metrics(metrics_ports["inference"]), rank=0, grace_seconds=60.0)
    )
    return made


#: Services that serve Prometheus metrics on a port of their own; the gateway has /metrics among its routes.
WITH_METRICS = ("beat", "train", "export", "generate", "inference")


def _celery(name: str, module: str, queue: str, jobs: int) -> tuple[str, ...]:
    beat = ("-B",) if name == "beat" else ()
    threads = ("--pool", "threads", "-c", str(jobs))
    worker = ("worker", *beat, "-n", f"{name}@%h", "-Q", queue, *threads, "--loglevel", "INFO")
    return (sys.executable, "-m", "celery", "-A", module, *worker, *QUIET)


def _gunicorn() -> tuple[str, ...]:
    return (
        sys.executable,
        "-m",
        "gunicorn",
        "--config",
        "python:gateway.gunicorn_conf",
        "--no-control-socket",
        "gateway.wsgi:app",
    )


def _metrics(port: int) -> dict[str, str]:
    return {"TUNESMITH_METRICS_PORT": str(port)}
