"""Every metric that a service of ours tells: its name, type, labels, meaning, and who tells it.

The processes' counters, the collectors, the reference (docs/metrics.md) and the checks of panels and alerts derive from
this table; nothing else names a metric. Units are Prometheus' base units: seconds, bytes, ratios from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: Services, by the name under which they log.
GATEWAY, BEAT, INFERENCE = "gateway", "beat", "inference"
#: What runs jobs.
WORKERS = ("trainer", "export", "generate")
MACHINES = (*WORKERS, INFERENCE)
ALL = (GATEWAY, BEAT, *MACHINES)

#: Seconds. Training takes hours, an export minutes.
JOB_BUCKETS = (5, 15, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600, 48 * 3600)
#: Of one phase of a job, of a replica's start, of a checkpoint's way into the storage.
STEP_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600)
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
TOKEN_BUCKETS = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
ANSWER_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
LEDGER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)


@dataclass(frozen=True, kw_only=True)
class Declared:
    name: str
    #: "counter", "gauge" or "histogram".
    type: str
    doc: str
    labels: tuple[str, ...]
    told_by: tuple[str, ...]
    #: Section of the reference.
    about: str
    #: Upper bounds of a histogram.
    buckets: tuple[float, ...] = ()
    #: When there is no such series; empty: it is always there, once something of its kind has happened.
    absent: str = ""


@dataclass(frozen=True)
class Section:
    """Makes the declarations of one section of the reference."""

    about: str
    told_by: tuple[str, ...]

    def counter(self, name: str, doc: str, *labels: str, absent: str = "") -> Declared:
        return self._one(name, "counter", doc, labels, (), absent)

    def gauge(self, name: str, doc: str, *labels: str, absent: str = "") -> Declared:
        return self._one(name, "gauge", doc, labels, (), absent)

    def histogram(self, name: str, doc: str, *labels: str, buckets: tuple[float, ...], absent: str = "") -> Declared:
        return self._one(name, "histogram", doc, labels, buckets, absent)

    def _one(
        self, name: str, type: str, doc: str, labels: tuple[str, ...], buckets: tuple[float, ...], absent: str
    ) -> Declared:
        return Declared(
            name=f"tunesmith_{name}", type=type, doc=doc, labels=labels, told_by=self.told_by, about=self.about,
            buckets=buckets, absent=absent,
        )  # fmt: skip


_EVERY = Section("Every service", ALL)
_HTTP = Section("Requests", (GATEWAY,))
_ANSWERS = Section("Answers of models, as clients see them", (GATEWAY,))
_QUEUE = Section("Jobs and queue, as the ledger has them", (GATEWAY,))
_PLATFORM = Section("Workers, devices and deployments, as the ledger has them", (GATEWAY,))
_JOBS = Section("Jobs, as their workers count them", WORKERS)
_ENDED = Section("Ends of jobs", (BEAT, *WORKERS))
_TRAINING = Section("Running trainings", ("trainer",))
_REPLICAS = Section("Replicas", (INFERENCE,))
_MACHINE = Section("Machines", MACHINES)
_DISK = Section("Disks", (GATEWAY, *MACHINES))
_BEAT = Section("Leases and the sweep", (BEAT,))

_NO_GPU = "on a machine without an NVIDIA GPU, or where its driver does not say"
_OF_RUNNING = ("job_id", "project_id")

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
_ABSENT_GAUGES = {
    "eval_loss": "before the first validation, and where there is none",
    "accuracy": "unless compute_accuracy asks for it",
    "grad_norm": "where the stage measures none",
    "mfu": "on a device whose peak arithmetic is not known (the CPU)",
    "peak_memory_bytes": "on the CPU",
}

_DECLARED = (
    _EVERY.gauge("build_info", "Always 1; its labels say what runs.", "service", "version", "python"),
    _EVERY.histogram(
        "ledger_transaction_duration_seconds", "How long a transaction held a connection of the ledger.", "access",
        buckets=LEDGER_BUCKETS,
    ),
    _EVERY.counter("ledger_errors_total", "Transactions that the ledger failed, by the class of the error.", "error"),
    _EVERY.gauge("ledger_connections_in_use", "Connections of the pool that are in use."),
    # Requests
    _HTTP.counter("http_requests_total", "Requests answered.", "method", "route", "status"),
    _HTTP.histogram(
        "http_request_duration_seconds", "From a request to the beginning of its answer.", "method", "route",
        buckets=REQUEST_BUCKETS,
    ),
    _HTTP.gauge("http_requests_in_progress", "Requests that are being worked on."),
    # Answers
    _ANSWERS.counter(
        "answers_total",
        "Requests to models that ended, by how: answered, refused (429), invalid, unavailable, too_slow, client_gone, "
        "broken (a stream that ended early).",
        "model", "outcome",
    ),
    _ANSWERS.gauge("answers_in_progress", "Requests to models that are not answered to their end yet.", "model"),
    _ANSWERS.histogram(
        "time_to_first_token_seconds", "From a request to its first token, as this gateway sees it; of streams.",
        "model", buckets=FIRST_TOKEN_BUCKETS,
    ),
    _ANSWERS.histogram(
        "time_per_output_token_seconds", "Mean time between two tokens of an answer; of streams.", "model",
        buckets=TOKEN_BUCKETS,
    ),
    _ANSWERS.histogram("answer_duration_seconds", "From a request to the end of its answer.", "model",
                       buckets=ANSWER_BUCKETS),
    _ANSWERS.counter(
        "answered_tokens_total",
        "Tokens passed on to clients by this gateway; the replicas' own count is tunesmith_generated_tokens_total.",
        "model",
    ),
    _ANSWERS.counter(
        "streams_total",
        "Streams that began, by their way through the gateway: short (its loop alone) or ordinary (with a thread).",
        "way",
    ),
    # Queue
    _QUEUE.gauge("jobs", "Jobs by kind and status.", "kind", "status"),
    _QUEUE.gauge("queue_depth", "Jobs that wait for a worker.", "kind", "priority"),
    _QUEUE.gauge("queue_oldest_wait_seconds", "How long the oldest of them waits.", "kind", "priority"),
    _QUEUE.gauge("ledger_up", "Whether the ledger answered at this scrape."),
    _QUEUE.gauge("broker_up", "Whether the broker answered at this scrape."),
    _QUEUE.gauge("broker_messages", "Wake-ups that no worker has fetched yet.", "kind", absent="while it is away"),
    # Platform
    _PLATFORM.gauge("workers", "Workers that beat lately, by kind of job.", "kind"),
    _PLATFORM.gauge("sweep_age_seconds", "Since the last sweep came to its end; +Inf: there was none yet."),
    _PLATFORM.gauge("backup_age_seconds", "Since the last whole backup.", absent="before the first one"),
    _PLATFORM.gauge("worker_info", "Always 1; its labels say who works where.", "worker_id", "host", "version"),
    _PLATFORM.gauge("worker_last_beat_age_seconds", "Since the worker's last beat.", "worker_id"),
    _PLATFORM.gauge(
        "devices", "Devices of the hosts of living workers: type gpu or cpu, held or idle.", "host", "type", "state"
    ),
    _PLATFORM.gauge(
        "kind_devices",
        "Those of the hosts where a living worker takes jobs of this kind; a device may be there for several.",
        "kind", "type", "state",
    ),
    _PLATFORM.gauge("deployments", "Deployments that are wanted, by status.", "status"),
    _PLATFORM.gauge("deployment_replicas_wanted", "Replicas that a deployment shall have.", "project_id", "model"),
    _PLATFORM.gauge("deployment_replicas_ready", "Replicas of it that answer.", "project_id", "model"),
    # Jobs
    _JOBS.gauge("worker_slots", "Jobs that this worker may run at once."),
    _JOBS.gauge("worker_jobs_running", "Jobs that this worker runs.", "kind"),
    _JOBS.counter("attempts_started_total", "Attempts claimed by this worker.", "kind"),
    _JOBS.histogram(
        "job_wait_seconds", "From a job's creation to its first claim.", "kind", buckets=JOB_BUCKETS
    ),
    _JOBS.histogram("job_duration_seconds", "From claim to finish.", "kind", buckets=JOB_BUCKETS),
    _JOBS.histogram(
        "job_phase_duration_seconds", "Of one child of a job, from its start (devices may be waited for) to its end.",
        "kind", "phase", buckets=STEP_BUCKETS,
    ),
    _JOBS.counter(
        "job_retries_total", "Attempts that failed and are tried again by themselves, by the code of the error.",
        "kind", "code",
    ),
    _JOBS.counter("events_written_total", "Job events committed."),
    _JOBS.counter(
        "checkpoints_total", "Checkpoints, by whether they were published or failed to be.", "kind", "outcome"
    ),
    _JOBS.histogram(
        "checkpoint_publish_duration_seconds", "From a child's word to the checkpoint's row: files sealed and stored.",
        buckets=STEP_BUCKETS,
    ),
    _JOBS.counter("checkpoint_bytes_total", "Size of the checkpoints published."),
    _JOBS.counter(
        "export_verifications_total", "Exports by format and by what their verification said.", "format", "outcome"
    ),
    # Ends of jobs
    _ENDED.counter(
        "jobs_finished_total", "Jobs that this worker finished; of beat: that ended because their workers were lost.",
        "kind", "status",
    ),
    _ENDED.counter("jobs_failed_total", "Those of them that failed, by the code of the error.", "kind", "code"),
    # Trainings
    *(
        _TRAINING.gauge(f"training_{name}", doc, *_OF_RUNNING, absent=_ABSENT_GAUGES.get(name, ""))
        for name, doc in TRAINING_GAUGES.items()
    ),
    _TRAINING.gauge(
        "training_checkpoint_timestamp_seconds", "When the newest checkpoint of a running job was published.",
        *_OF_RUNNING, absent="before its first one",
    ),
    _TRAINING.counter("training_tokens_total", "Unpadded tokens trained."),
    _TRAINING.counter("training_nonfinite_total", "Trainings' reports whose loss or gradient norm was no number."),
    # Replicas
    _REPLICAS.gauge("replicas", "Replicas of this worker by status.", "status"),
    _REPLICAS.gauge("replica_requests_running", "Requests that the engine works on.", "model", "replica_id"),
    _REPLICAS.gauge("replica_requests_waiting", "Requests that wait in the engine.", "model", "replica_id"),
    _REPLICAS.gauge("replica_kv_cache_usage_ratio", "Share of the engine's KV cache that is in use.",
                    "model", "replica_id"),
    _REPLICAS.counter("generated_tokens_total", "Tokens generated.", "model"),
    _REPLICAS.counter("prompt_tokens_total", "Tokens of prompts.", "model"),
    _REPLICAS.counter("prefix_cache_queries_total", "Tokens of prompts looked up in the prefix cache.", "model"),
    _REPLICAS.counter("prefix_cache_hits_total", "Tokens of prompts found in the prefix cache.", "model"),
    _REPLICAS.counter("preemptions_total", "Requests whose KV cache was taken for others.", "model"),
    _REPLICAS.histogram("replica_start_duration_seconds", "From the files to the first answer.", "model",
                        buckets=STEP_BUCKETS),
    _REPLICAS.counter("replica_failures_total", "Starts that failed, and processes that ended unasked.", "model"),
    # Machines
    _MACHINE.gauge("gpu_info", "Always 1; its labels say what it is.", "device", "name", "driver", absent=_NO_GPU),
    _MACHINE.gauge("gpu_memory_used_bytes", "GPU memory in use.", "device", absent=_NO_GPU),
    _MACHINE.gauge("gpu_memory_size_bytes", "GPU memory there is.", "device", absent=_NO_GPU),
    _MACHINE.gauge(
        "gpu_utilization_ratio", "Share of the last sample in which a kernel ran.", "device", absent=_NO_GPU
    ),
    _MACHINE.gauge("gpu_temperature_celsius", "Temperature of the GPU.", "device", absent=_NO_GPU),
    _MACHINE.gauge("gpu_power_watts", "Power that the GPU draws.", "device", absent=_NO_GPU),
    _MACHINE.gauge(
        "device_held", "Whether a job or a replica holds the device (1), by its own machine's locks.", "device", "type"
    ),
    _DISK.gauge(
        "disk_free_bytes", "Bytes free on the volume of the run directory, the artifacts or the SQLite ledger.",
        "volume",
    ),
    _DISK.gauge("disk_size_bytes", "Bytes that the volume has.", "volume"),
    # Beat
    _BEAT.gauge("job_lease_age_seconds", "Longest time for which the beat of a held job stood still."),
    _BEAT.counter("leases_lost_total", "Taken from a worker that went silent: a job, a node or a replica.", "holder"),
    _BEAT.counter("sweeps_total", "Sweeps, by whether they came to their end.", "outcome"),
    _BEAT.histogram("sweep_duration_seconds", "Of one sweep.", buckets=REQUEST_BUCKETS),
    _BEAT.gauge("sweep_last_success_timestamp_seconds", "When the last sweep came to its end."),
)  # fmt: skip

#: By name.
TABLE: Mapping[str, Declared] = MappingProxyType({declared.name: declared for declared in _DECLARED})
