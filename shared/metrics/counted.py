"""What a process counts itself: one attribute per metric, made from its declaration."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import version
from itertools import chain
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import Metric

from shared import failures
from shared.job import TERMINAL, Job, Status
from shared.metrics.declared import TABLE, TRAINING_GAUGES, Declared

#: Labels that name what is a project's own, or a machine of the platform's.
NAMING = frozenset({"job_id", "project_id", "model", "replica_id", "worker_id", "host", "device"})
#: What each worker runs.
_KINDS = {"trainer": ("train", "evaluate"), "export": ("export", "push"), "generate": ("generate",)}
#: With what the sweep fails a job.
_LOST = "worker_lost"
#: What is no number when a training goes wrong.
_MUST_BE_FINITE = ("loss", "eval_loss", "grad_norm")


class Metrics:
    """Labels are few and bounded; job ids live only while the job runs.

    `service` tells only what is declared for it; left out, everything.
    """

    def __init__(self, registry: CollectorRegistry, service: str = ""):
        self.registry = registry
        self._service = service
        #: What counts for these values of a metric's labels; for metrics that forget none of them.
        self.labelled: Callable[..., Any] = cache(lambda metric, *labels: metric.labels(*labels))
        self._every()
        self._gateway()
        self._jobs()
        self._training()
        self._inference()
        self._beat()

    def _every(self) -> None:
        if self._service:
            ProcessCollector(registry=self.registry)
            build = self._gauge("build_info")
            build.labels(self._service, version("tunesmith"), platform.python_version()).set(1)
        self.ledger_transaction_duration = self._histogram("ledger_transaction_duration_seconds")
        self.ledger_errors = self._counter("ledger_errors_total")

    def _gateway(self) -> None:
        self.http_requests = self._counter("http_requests_total")
        self.http_request_duration = self._histogram("http_request_duration_seconds")
        self.http_requests_in_progress = self._gauge("http_requests_in_progress")
        self.answers = self._counter("answers_total")
        self.answers_in_progress = self._gauge("answers_in_progress")
        self.answered_tokens = self._counter("answered_tokens_total")
        self.time_to_first_token = self._histogram("time_to_first_token_seconds")
        self.time_per_output_token = self._histogram("time_per_output_token_seconds")
        self.answer_duration = self._histogram("answer_duration_seconds")
        self.streams = self._counter("streams_total")
        if self._service == "gateway":
            for way in ("short", "ordinary"):
                self.labelled(self.streams, way)

    def _jobs(self) -> None:
        self.worker_slots = self._gauge("worker_slots")
        self.worker_jobs_running = self._gauge("worker_jobs_running")
        self.attempts_started = self._counter("attempts_started_total")
        self.job_wait = self._histogram("job_wait_seconds")
        self.job_duration = self._histogram("job_duration_seconds")
        self.job_phase_duration = self._histogram("job_phase_duration_seconds")
        self.jobs_finished = self._counter("jobs_finished_total")
        self.jobs_failed = self._counter("jobs_failed_total")
        self.job_retries = self._counter("job_retries_total")
        self.events_written = self._counter("events_written_total")
        self.checkpoints = self._counter("checkpoints_total")
        self.checkpoint_publish_duration = self._histogram("checkpoint_publish_duration_seconds")
        self.checkpoint_bytes = self._counter("checkpoint_bytes_total")
        self.export_verifications = self._counter("export_verifications_total")
        for kind in _KINDS.get(self._service, ()):
            self._begin_at_zero(kind)

    def _begin_at_zero(self, kind: str) -> None:
        """There from the start: Prometheus sees an increase from the first job on, and a worker may run but one."""
        self.worker_jobs_running.labels(kind)
        self.attempts_started.labels(kind)
        self.job_wait.labels(kind)
        self.job_duration.labels(kind)
        for status in ("succeeded", "failed", "cancelled"):
            self.jobs_finished.labels(kind, status)
        for code in failures.TABLE:
            self.jobs_failed.labels(kind, code)

    def _training(self) -> None:
        self.trainings = {name: self._gauge(f"training_{name}") for name in TRAINING_GAUGES}
        self.training_checkpoint_timestamp = self._gauge("training_checkpoint_timestamp_seconds")
        self.training_tokens = self._counter("training_tokens_total")
        self.training_nonfinite = self._counter("training_nonfinite_total")

    def _inference(self) -> None:
        self.generated_tokens = self._counter("generated_tokens_total")
        self.prompt_tokens = self._counter("prompt_tokens_total")
        self.prefix_cache_queries = self._counter("prefix_cache_queries_total")
        self.prefix_cache_hits = self._counter("prefix_cache_hits_total")
        self.preemptions = self._counter("preemptions_total")
        self.replica_start_duration = self._histogram("replica_start_duration_seconds")
        self.replica_failures = self._counter("replica_failures_total")

    def _beat(self) -> None:
        self.lease_age = self._gauge("job_lease_age_seconds")
        self.leases_lost = self._counter("leases_lost_total")
        self.sweeps = self._counter("sweeps_total")
        self.sweep_duration = self._histogram("sweep_duration_seconds")
        self.sweep_last_success = self._gauge("sweep_last_success_timestamp_seconds")
        if self._service == "beat":
            for holder in ("job", "node", "replica"):
                self.leases_lost.labels(holder)
            for outcome in ("completed", "failed"):
                self.sweeps.labels(outcome)
            for kind in chain.from_iterable(_KINDS.values()):
                self.jobs_finished.labels(kind, "failed")
                self.jobs_finished.labels(kind, "cancelled")
                self.jobs_failed.labels(kind, _LOST)

    def begin_job(self, kind: str, waited_seconds: float | None) -> None:
        """An attempt begins; `waited_seconds`: of a job that was never claimed before."""
        self.attempts_started.labels(kind).inc()
        self.worker_jobs_running.labels(kind).inc()
        self.checkpoints.labels(kind, "failed")  # there from now on: the first one is an increase
        if waited_seconds is not None:
            self.job_wait.labels(kind).observe(waited_seconds)

    def end_attempt(self, kind: str) -> None:
        """However it ended."""
        self.worker_jobs_running.labels(kind).dec()

    def finish_job(
        self, kind: str, status: str, seconds: float, error: Mapping[str, Any] | None, spec: Mapping[str, Any]
    ) -> None:
        """The job has its end; `seconds` since the claim."""
        self.job_duration.labels(kind).observe(seconds)
        code = self._count_end(kind, status, error)
        made = str(spec.get("export_format"))
        if kind == "export" and (status == "succeeded" or code == "verification_failed"):
            self.export_verifications.labels(made, "failed" if code else "passed").inc()

    def leave_job(self, job: Job) -> None:
        """An attempt has ended before the job, and this is what the ledger made of it: it may be the job's end, too."""
        if job.status in TERMINAL:
            self._count_end(str(job.kind), str(job.status), job.error if job.status == Status.FAILED else None)

    def _count_end(self, kind: str, status: str, error: Mapping[str, Any] | None) -> str:
        """The code of the error."""
        self.jobs_finished.labels(kind, status).inc()
        code = str(error.get("code")) if error is not None else ""
        if code:
            self.jobs_failed.labels(kind, code).inc()
        return code

    def keep_checkpoint(self, kind: str, seconds: float, size_bytes: int) -> None:
        """One more is published."""
        self.checkpoints.labels(kind, "published").inc()
        self.checkpoint_publish_duration.observe(seconds)
        self.checkpoint_bytes.inc(size_bytes)

    def show_training(self, job_id: str, project_id: str, data: Mapping[str, Any]) -> None:
        """Set the gauges of a running job from the data of a metrics event, which has None for what is no number."""
        total = data.get("total_steps")
        share = {"progress_ratio": data.get("step", 0) / total} if isinstance(total, int) and total > 0 else {}
        for name, value in (*data.items(), *share.items()):
            if name in self.trainings and isinstance(value, int | float):
                self.trainings[name].labels(job_id, project_id).set(value)
        if any(name in data and data[name] is None for name in _MUST_BE_FINITE):
            self.training_nonfinite.inc()

    def show_checkpoint(self, job_id: str, project_id: str) -> None:
        self.training_checkpoint_timestamp.labels(job_id, project_id).set(time.time())

    def count_training(self, done: Mapping[str, Any]) -> None:
        """Count what a training says that it has done."""
        if isinstance(num_tokens := done.get("num_tokens"), int | float):
            self.training_tokens.inc(num_tokens)

    def forget_training(self, job_id: str) -> None:
        """Take the gauges of a job away: it runs no more."""
        for gauge in (*self.trainings.values(), self.training_checkpoint_timestamp):
            gauge.remove_by_labels({"job_id": job_id})

    def observe_transaction(self, access: str, seconds: float, error: BaseException | None) -> None:
        """For shared/store/engine.py: one transaction, its "read" or "write", and what the ledger failed it with."""
        self.ledger_transaction_duration.labels(access).observe(seconds)
        if error is not None:
            self.ledger_errors.labels(type(error).__name__).inc()

    def _told(self, name: str) -> tuple[Declared, CollectorRegistry | None]:
        declared = TABLE[f"tunesmith_{name}"]
        return declared, self.registry if not self._service or self._service in declared.told_by else None

    def _counter(self, name: str) -> Counter:
        declared, registry = self._told(name)
        return Counter(declared.name, declared.doc, declared.labels, registry=registry)

    def _gauge(self, name: str) -> Gauge:
        declared, registry = self._told(name)
        return Gauge(declared.name, declared.doc, declared.labels, registry=registry)

    def _histogram(self, name: str) -> Histogram:
        declared, registry = self._told(name)
        return Histogram(declared.name, declared.doc, declared.labels, buckets=declared.buckets, registry=registry)


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
