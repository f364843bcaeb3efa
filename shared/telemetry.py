"""The declaration of every Prometheus metric of every service.

A service makes one `Metrics` on a registry of its own and passes it on; nothing here is global. Gauges that the
ledger knows better than any process (jobs by state, queue depth, workers) are read from it at each scrape.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from shared.store import Store

#: Labels that name what is a project's own.
NAMING = frozenset({"job_id", "project_id", "model"})
#: A worker that did not beat for this long does not count.
SILENT_SECONDS = 60.0
#: Below, at and above priority 0.
PRIORITY_CLASSES = ("low", "normal", "high")
#: Training takes hours, an export minutes.
_JOB_SECONDS = (5, 15, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600, 48 * 3600)

#: What is shown of a running training, by its name in a metrics event. For whoever operates the workers: their port is
#: open to no user, and a series lives as long as its job runs.
TRAINING_GAUGES = {
    "loss": "Last training loss of a running job.",
    "eval_loss": "Last validation loss of a running job.",
    "learning_rate": "Learning rate of a running job.",
    "grad_norm": "Last norm of the gradient of a running job.",
    "accuracy": "Share of the tokens that are predicted right, where it is asked for.",
    "step": "Optimizer steps done by a running job.",
    "progress_ratio": "Share of its steps that a running job has done.",
    "tokens_per_second": "Unpadded tokens trained per second.",
    "samples_per_second": "Samples trained per second.",
    "mfu": "Share of the devices' peak arithmetic that the training uses.",
    "padding_share": "Share of the tokens computed that are padding.",
    "peak_memory_bytes": "Largest memory of a device in use so far.",
}


class Metrics:
    """Every metric that a process counts itself. Labels are few and bounded; job ids live only while the job runs."""

    def __init__(self, registry: CollectorRegistry):
        self.registry = registry
        self._gateway(registry)
        self._training(registry)
        self._jobs(registry)
        self._inference(registry)

    def _gateway(self, registry: CollectorRegistry) -> None:
        self.http_requests = Counter(
            "tunesmith_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.http_request_duration = Histogram(
            "tunesmith_http_request_duration_seconds",
            "Time to answer a request; for a stream, to its end.",
            ["method", "route"],
            registry=registry,
        )

    def _training(self, registry: CollectorRegistry) -> None:
        self.trainings = {
            name: Gauge(f"tunesmith_training_{name}", doc, ["job_id", "project_id"], registry=registry)
            for name, doc in TRAINING_GAUGES.items()
        }
        self.training_tokens = Counter("tunesmith_training_tokens", "Unpadded tokens trained.", registry=registry)

    def _jobs(self, registry: CollectorRegistry) -> None:
        self.jobs_finished = Counter(
            "tunesmith_jobs_finished", "Jobs that this worker finished.", ["kind", "status"], registry=registry
        )
        self.jobs_failed = Counter(
            "tunesmith_jobs_failed", "Jobs that failed on this worker, by the code of the error.", ["kind", "code"],
            registry=registry,
        )  # fmt: skip
        # There from the start: an increase is seen from the first one on.
        self.jobs_failed.labels("train", "diverged")
        self.job_duration = Histogram(
            "tunesmith_job_duration_seconds", "From claim to finish.", ["kind"], buckets=_JOB_SECONDS, registry=registry
        )
        self.events_written = Counter("tunesmith_events_written", "Job events committed.", registry=registry)
        self.leases_lost = Counter(
            "tunesmith_leases_lost", "Jobs and replicas taken from a worker that went silent.", registry=registry
        )
        self.lease_age = Gauge(
            "tunesmith_job_lease_age_seconds",
            "Longest time for which the beat of a held job stood still.",
            registry=registry,
        )

    def _inference(self, registry: CollectorRegistry) -> None:
        self.generated_tokens = Counter("tunesmith_generated_tokens", "Tokens generated.", ["model"], registry=registry)
        self.prompt_tokens = Counter("tunesmith_prompt_tokens", "Tokens of prompts.", ["model"], registry=registry)
        self.answered_tokens = Counter(
            "tunesmith_answered_tokens",
            "Tokens passed on to clients by this gateway; the replicas' own count is tunesmith_generated_tokens.",
            ["model"],
            registry=registry,
        )
        self.time_to_first_token = Histogram(
            "tunesmith_time_to_first_token_seconds", "From request to first token.", ["model"], registry=registry
        )

    def show_training(self, job_id: str, project_id: str, data: Mapping[str, Any]) -> None:
        """Set the gauges of a running job from the data of a metrics event."""
        total = data.get("total_steps")
        share = {"progress_ratio": data.get("step", 0) / total} if isinstance(total, int) and total > 0 else {}
        for name, value in (*data.items(), *share.items()):
            if name in self.trainings and isinstance(value, int | float):
                self.trainings[name].labels(job_id, project_id).set(value)

    def count_training(self, done: Mapping[str, Any]) -> None:
        """Count what a training says that it has done."""
        if isinstance(num_tokens := done.get("num_tokens"), int | float):
            self.training_tokens.inc(num_tokens)

    def forget_training(self, job_id: str) -> None:
        """Take the gauges of a job away: it runs no more."""
        for gauge in self.trainings.values():
            gauge.remove_by_labels({"job_id": job_id})


class Shared:
    """A registry without what names somebody's job or model: for those who do not operate the platform."""

    def __init__(self, registry: CollectorRegistry):
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            samples = [sample for sample in metric.samples if not sample.labels.keys() & NAMING]
            metric.samples = samples
            if samples:
                yield metric


class LedgerCollector(Collector):
    """Jobs, queue depth and workers as the ledger has them, read at each scrape. For one service: the gateway."""

    def __init__(self, store: Store, kinds: Iterable[str] = ("train", "export", "generate", "evaluate", "push")):
        self._store = store
        self._kinds = tuple(kinds)

    def describe(self) -> Iterable[Metric]:
        return ()  # registering must not ask the ledger

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("tunesmith_jobs", "Jobs by kind and status.", labels=["kind", "status"])
        for (kind, status), count in self._store.jobs.counts().items():
            jobs.add_metric([str(kind), str(status)], count)
        return jobs, *self._queue(), self._workers()

    def _queue(self) -> tuple[Metric, Metric]:
        """By classes of priority, of which there are three, whatever users ask for."""
        labels = ["kind", "priority"]
        depth = GaugeMetricFamily("tunesmith_queue_depth", "Jobs that wait for a worker.", labels=labels)
        told = "How long the oldest of them waits."
        oldest = GaugeMetricFamily("tunesmith_queue_oldest_wait_seconds", told, labels=labels)
        waiting = self._store.jobs.queue_waits()
        for kind in self._kinds:
            for name in PRIORITY_CLASSES:
                count, seconds = waiting.get((kind, name), (0, 0.0))
                depth.add_metric([kind, name], count)
                oldest.add_metric([kind, name], seconds)
        return depth, oldest

    def _workers(self) -> Metric:
        workers = GaugeMetricFamily("tunesmith_workers", "Workers that beat lately, by kind of job.", labels=["kind"])
        alive = [worker for worker in self._store.workers.list() if worker.age_seconds < SILENT_SECONDS]
        for kind in self._kinds:
            workers.add_metric([kind], sum(kind in worker.kinds for worker in alive))
        return workers


class GpuCollector(Collector):
    """Memory of each GPU, asked of nvidia-smi at each scrape; says nothing on a machine without one."""

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        used = GaugeMetricFamily("tunesmith_gpu_memory_used_bytes", "GPU memory in use.", labels=["device"])
        total = GaugeMetricFamily("tunesmith_gpu_memory_total_bytes", "GPU memory there is.", labels=["device"])
        for uuid, used_mib, total_mib in query_gpus("uuid", "memory.used", "memory.total"):
            used.add_metric([uuid], float(used_mib) * 1024**2)
            total.add_metric([uuid], float(total_mib) * 1024**2)
        return (used, total) if total.samples else ()


def query_gpus(*fields: str) -> list[list[str]]:
    """One row per GPU, from nvidia-smi; none when there is no such program or it fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]


def serve_metrics(port: int, host: str, registry: CollectorRegistry) -> tuple[WSGIServer, threading.Thread]:
    """Serve /metrics from a thread of this process; port 0 takes a free one. Ends with `shutdown()`."""
    registry.register(GpuCollector())
    server, thread = start_http_server(port, addr=host, registry=registry)
    return server, thread
