"""Every setting of every service, read from the environment in this one place (`TUNESMITH_<NAME>`).

A setting is a field below; its variable is `TUNESMITH_` and the field's name in capitals. Lists are split at commas.
`TUNESMITH_<NAME>_FILE` names a file that holds the value: how containers hand over secrets such as the database URL.
Importing does nothing; `Settings.from_env()` reads, converts and checks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from shared.errors import TunesmithError

#: What a switch may be set to.
TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}

#: Settings that others have a variable for, which counts where ours says nothing.
ELSEWHERE = {
    "hub_url": "HF_ENDPOINT",
    "otlp_endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT",
    "otlp_headers": "OTEL_EXPORTER_OTLP_HEADERS",
}


class InvalidSetting(TunesmithError):
    """An environment variable has a value that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    #: Folder of everything the embedded platform writes: ledger, artifacts, logs, broker data.
    home: Path = Path(".tunesmith")
    #: SQLAlchemy URL of the ledger. Empty: SQLite at <home>/ledger.sqlite3.
    database_url: str = ""
    #: Redis URL of the Celery broker. Empty: the broker that `tunesmith up` starts, on a unix socket below home.
    broker_url: str = ""
    #: fsspec URL or folder where artifacts lie. Empty: <home>/artifacts.
    storage_url: str = ""
    #: Folder for attempts, caches and device locks of this machine. Empty: <home>/run.
    run_dir: Path = Path("")
    #: Address the gateway binds; 127.0.0.1 keeps it on this machine.
    host: str = "127.0.0.1"
    port: int = 8000
    #: Address under which replicas bind and are reached by the gateway.
    replica_host: str = "127.0.0.1"
    #: Folders from which `model` and `dataset` paths may be taken. Empty: none.
    import_roots: list[Path] = field(default_factory=list)
    #: Models (catalog names or hub ids) that may run code of their own.
    trust_remote_code: list[str] = field(default_factory=list)
    #: Whether model and dataset names may be looked up on the Hugging Face Hub.
    hub: bool = True
    #: Address of the Hub, or of a mirror of it; left out, HF_ENDPOINT counts, which the children's libraries read.
    hub_url: str = "https://huggingface.co"
    #: Folder of the administrator's tasks of lm-evaluation-harness (YAML files and their data). Empty: none.
    eval_tasks_dir: str = ""
    #: Largest body of an upload, bytes.
    max_upload_bytes: int = 2 * 1024**3
    #: Largest body of any other request, bytes.
    max_body_bytes: int = 8 * 1024**2
    #: Python that runs training and export children. Empty: .venvs/trainer/bin/python, else this interpreter.
    trainer_python: str = ""
    #: Python that runs vLLM. Empty: .venvs/inference/bin/python, else this interpreter.
    inference_python: str = ""
    #: Keys and servers of trackers, for every job that asks for one without a key of its own (shared/tracking.py).
    #: A host of SwanLab or of Weights & Biases is one of your own; without a server MLflow leaves files with the model.
    swanlab_api_key: str = field(default="", repr=False)
    swanlab_host: str = ""
    wandb_api_key: str = field(default="", repr=False)
    wandb_base_url: str = ""
    mlflow_tracking_uri: str = field(default="", repr=False)
    mlflow_tracking_token: str = field(default="", repr=False)
    #: Ray cluster for trainings that say `use_ray`, as ray.init takes it (ray://host:10001, host:6379, auto). Empty:
    #: each has a Ray of its own on its worker's machine.
    ray_address: str = ""
    #: Device names this machine offers, e.g. `cpu` or GPU UUIDs. Empty: found out (nvidia-smi, else `cpu`).
    devices: list[str] = field(default_factory=list)
    #: What jobs may require of this machine's workers beside its devices, e.g. `eu,nvlink`.
    worker_labels: list[str] = field(default_factory=list)
    #: Highest priority that a key of role user may give; administrators give any (up to 100).
    user_priority: int = 0
    #: Address under which training workers of other machines reach this one's. Empty: the one towards the ledger.
    node_address: str = ""
    #: Network interface between training workers, of gloo and NCCL. Empty: gloo's has that address, NCCL finds its own.
    node_interface: str = ""
    #: Stable name of this worker; empty: <host name>-<service>.
    worker_id: str = ""
    #: A job whose beat did not move for this long, by the sweep's own clock, is taken from its worker.
    lease_seconds: float = 30.0
    #: How often the holder of a job renews its lease.
    renew_seconds: float = 3.0
    #: A keeper that got no renewal for this long kills its child; shorter than the lease.
    keeper_seconds: float = 20.0
    #: How often beat sweeps the ledger.
    sweep_seconds: float = 5.0
    #: How often a worker deletes what has no record any more, and what dead attempts left.
    clean_seconds: float = 60.0
    #: Days after a job's end for which its trainings can be gone on from: optimizer and all. 0: for ever.
    keep_states_days: float = 7.0
    #: Days after a job's end for which its checkpoints stay as models. 0: for ever.
    keep_checkpoints_days: float = 0.0
    #: Days after a job's end for which its events (and so its curves) stay in the ledger, and those of a deleted
    #: deployment. 0: for ever.
    keep_events_days: float = 0.0
    #: Days after a job's end for which the folders of its attempts (logs) stay on their machines. 0: for ever.
    keep_logs_days: float = 30.0
    #: Days for which a machine keeps what it fetched from a storage elsewhere (S3) and nobody asks for. 0: for ever.
    keep_cache_days: float = 7.0
    #: How long a cancelled child may take to end by itself.
    cancel_seconds: float = 5.0
    #: How long a child may take to write its checkpoint when paused or when its worker shuts down.
    pause_timeout_seconds: float = 600.0
    #: How long a worker that shall end lets its job go on, and takes no other; then the job writes its checkpoint. For
    #: workers that come and go with the queue, and for jobs that would begin anew (exports, evaluations).
    finish_seconds: float = 0.0
    #: Most memory that each process of a job may take of the host (heap and anonymous mappings), GiB; 0: no limit. One
    #: that wants more fails by itself and its job goes on with less; without a limit the kernel kills somebody. What is
    #: mapped counts, used or not: the libraries alone take 0.5 to 2 GiB, more with many cores.
    process_memory_gib: float = 0.0
    #: How long a gateway that shall end lets open streams go on; new requests are answered with 503 meanwhile.
    drain_seconds: float = 10.0
    #: How long a vLLM server may take until it answers /health.
    replica_start_seconds: float = 900.0
    #: Memory for vLLM's KV cache per replica on machines without a GPU, GiB.
    cpu_kv_cache_gib: int = 1
    #: Port of a worker's Prometheus metrics; 0: none.
    metrics_port: int = 0
    #: Address a worker's metrics server binds.
    metrics_host: str = "127.0.0.1"
    log_level: str = "INFO"
    #: Collector of traces (OTLP over HTTP), e.g. http://otel-collector:4318. Empty: no traces are made. Left out,
    #: OTEL_EXPORTER_OTLP_ENDPOINT counts, and OTEL_EXPORTER_OTLP_HEADERS for its headers (`name=value,name=value`).
    otlp_endpoint: str = ""
    otlp_headers: str = field(default="", repr=False)
    #: Share of the traces that are kept; of one that a client began, that client decides.
    trace_ratio: float = 1.0
    #: Whether each request has a line in its replica's log: id and parameters, not what it says.
    replica_log_requests: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        environ = os.environ if environ is None else environ
        hints = get_type_hints(cls)
        texts = {f.name: _given(environ, f"TUNESMITH_{f.name.upper()}") for f in fields(cls)}
        for name, variable in ELSEWHERE.items():
            texts[name] = texts[name] or environ.get(variable)
        given = {name: text for name, text in texts.items() if text is not None}
        return cls(**{name: _convert(name, text, hints[name]) for name, text in given.items()})

    def __post_init__(self) -> None:
        home = Path(self.home).absolute()
        object.__setattr__(self, "home", home)
        object.__setattr__(self, "run_dir", (home / "run" if self.run_dir == Path("") else self.run_dir).absolute())
        object.__setattr__(self, "database_url", self.database_url or f"sqlite:///{home / 'ledger.sqlite3'}")
        object.__setattr__(self, "storage_url", self.storage_url or str(home / "artifacts"))
        object.__setattr__(self, "broker_url", self.broker_url or f"redis+socket://{home / 'broker' / 'redis.sock'}")
        object.__setattr__(self, "import_roots", [Path(root).resolve() for root in self.import_roots])
        if not self.keeper_seconds < self.lease_seconds:
            raise InvalidSetting(
                f"TUNESMITH_KEEPER_SECONDS is {self.keeper_seconds}: it must be below TUNESMITH_LEASE_SECONDS "
                f"({self.lease_seconds}), or a lost child would still run when the job starts again"
            )

    def environment(self) -> dict[str, str]:
        """The variables that make a service started with them see these same settings."""
        return {f"TUNESMITH_{f.name.upper()}": _text(getattr(self, f.name)) for f in fields(self)}


def process_environment(*names: str) -> dict[str, str]:
    """The variables of this process's environment among `names`; the only other place where it is read."""
    return {name: os.environ[name] for name in names if name in os.environ}


def reads_chinese() -> bool:
    """Whether the user's locale is a Chinese one, by the first variable that says (POSIX: LC_ALL, then LC_MESSAGES)."""
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    given = process_environment(*names)
    return next((given[name] for name in names if given.get(name)), "").lower().startswith("zh")


def _given(environ: Mapping[str, str], variable: str) -> str | None:
    if variable in environ or f"{variable}_FILE" not in environ:
        return environ.get(variable)
    path = Path(environ[f"{variable}_FILE"])
    try:
        return path.read_text().strip()
    except OSError as error:
        raise InvalidSetting(f"{variable}_FILE is {str(path)!r}: cannot be read ({error.strerror})") from error


def _convert(name: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return TRUTH[text.lower()]
        if kind in (int, float, str, Path):
            return kind(text)
        item = kind.__args__[0]
        return [item(part.strip()) for part in text.split(",") if part.strip()]
    except (KeyError, ValueError) as error:
        expected = getattr(kind, "__name__", kind)
        raise InvalidSetting(f"TUNESMITH_{name.upper()} is {text!r}: expected {expected}") from error


def _text(value: Any) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, list) else str(value)
