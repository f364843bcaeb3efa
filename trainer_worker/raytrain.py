"""A training that Ray Train starts: its driver's arguments, its environment, and what ray.init gets. Pure functions.

Without an address a job has a Ray of its own: sized to its devices, heard by this machine alone (loopback, and a token
that only its processes know), gone with its keeper. With one the ranks run where that cluster has room: then the
attempt's folder, the models and the caches must lie at the same paths on its nodes, and the same Tunesmith with the
same Python and Ray must be installed there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.spec import TrainSpec
from trainer_worker.torchrun import LOOPBACK

#: Nothing of a training goes through the object store; Ray would take a third of the memory. Bytes.
STORE_BYTES = 80 * 1024**2
#: Options of `ray_init_kwargs` that count in a cluster, too: the others size a Ray of the job's own.
ANYWHERE = frozenset({"log_to_driver", "logging_level", "configure_logging", "ignore_reinit_error"})
#: Variables that the ranks in a cluster get as the driver has them; a Ray of the job's own hands its whole environment
#: down. Secrets are not among them: Ray shows these to whoever sees the cluster.
HANDED = (
    *("TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "PYTHONFAULTHANDLER"),
    *("PYTORCH_ALLOC_CONF", "HF_HUB_OFFLINE"),
)
#: How names of variables begin that hold the job's secrets, and the keys and servers of its trackers.
SECRET = ("HF_TOKEN", "TUNESMITH_SECRET_", "SWANLAB_", "WANDB_", "MLFLOW_")


def train_argv(python: str, folder: str, address: str) -> list[str]:
    return [python, "-m", "trainer_worker.child.ray_driver", folder, *([address] if address else [])]


def environment(address: str, token: str) -> dict[str, str]:
    """What the driver gets beside torchrun.environment; `token` is for a Ray of the job's own."""
    return COMMON if address else COMMON | OWN | {"RAY_AUTH_TOKEN": token}


COMMON = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A dead rank ends the others this soon.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
OWN = {
    # Ray's name for a Ray of this machine alone, on any system: it listens on the loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Other users of the machine could have it run what they like.
    "RAY_AUTH_MODE": "token",
    # Else Ray ends ranks when the machine's memory is nearly full, whoever filled it.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # A minute is what Ray grants its daemons and workers; a machine that prepares data beside takes longer.
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
}


def own(spec: TrainSpec, *, num_processes: int, num_gpus: int, temp_dir: str) -> dict[str, Any]:
    """Arguments of ray.init for a Ray of the job's own."""
    made = {
        "address": "local",
        "num_cpus": num_processes,
        "object_store_memory": STORE_BYTES,
        # The ranks write logs of their own.
        "log_to_driver": False,
    }
    return made | _given(spec) | {
        "num_gpus": num_gpus,
        "include_dashboard": False,
        "_temp_dir": temp_dir,
        "_node_ip_address": LOOPBACK,
    }  # fmt: skip


def cluster(spec: TrainSpec, address: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of ray.init for a cluster that is there."""
    handed = {name: environ[name] for name in HANDED if name in environ}
    made = {"address": address, "log_to_driver": False, "runtime_env": {"env_vars": handed}}
    return made | {name: value for name, value in _given(spec).items() if name in ANYWHERE}


def unheeded(spec: TrainSpec) -> list[str]:
    """Options of the client's that a cluster does not take."""
    return sorted(set(_given(spec)) - ANYWHERE)


def _given(spec: TrainSpec) -> dict[str, Any]:
    return {name: value for name, value in (spec.distributed.ray_init_kwargs or {}).items() if value is not None}


def secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """The job's secrets, for ranks that do not inherit the driver's environment."""
    return {name: value for name, value in environ.items() if name.startswith(SECRET)}
