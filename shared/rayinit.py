"""The check of `ray_init_kwargs`: which options of ray.init a client may choose.

Those that size a Ray of the job's own and say how much it logs. Never those that name an address, a file, a package,
an environment or code: a client does not choose what the server connects to, reads, installs or runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shared.fields import ObjectOrJson, refuse, shown
from shared.nearest import did_you_mean
from shared.tongues import Text

#: How an administrator lets workers into a Ray cluster that asks for a token (TUNESMITH_RAY_ADDRESS).
CLUSTER_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
#: Ray starts with no smaller one, bytes.
LEAST_STORE_BYTES = 75 * 1024**2
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _count(least: int) -> Callable[[Any], Text | None]:
    def check(value: Any) -> Text | None:
        is_one = type(value) is int and least <= value < 2**53
        return None if is_one else Text("a whole number of at least {least}", least=least)

    return check


def _switch(value: Any) -> Text | None:
    return None if isinstance(value, bool) else Text("true or false")


def _level(value: Any) -> Text | None:
    is_one = (isinstance(value, str) and value.upper() in LEVELS) or (type(value) is int and 0 <= value <= 50)
    return None if is_one else Text("one of {allowed}", allowed=", ".join(LEVELS))


#: What is taken, each with its check; it says what would be right.
ALLOWED: Mapping[str, Callable[[Any], Text | None]] = {
    "num_cpus": _count(1),
    "num_gpus": _count(0),
    "object_store_memory": _count(LEAST_STORE_BYTES),
    "log_to_driver": _switch,
    "logging_level": _level,
    "configure_logging": _switch,
    "ignore_reinit_error": _switch,
}
ADDRESS = "which Ray cluster jobs go to is set by the server's administrator (TUNESMITH_RAY_ADDRESS)"
PLACE = "a client does not choose where the server writes"
INSTALLED = "what is installed for a training, and its environment, are the server's"
WATCHED = "nothing of a job's own Ray listens to anybody else; metrics are events of the job"
CODE = "a client does not choose which code the server runs"
#: Options of ray.init that are known and not taken: why.
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("address", "_redis_username", "_redis_password", "_node_ip_address", "proxy_server_url"), ADDRESS),
    **dict.fromkeys(("_temp_dir", "_plasma_directory", "object_spilling_directory", "cgroup_path"), PLACE),
    **dict.fromkeys(("runtime_env", "_system_config", "namespace"), INSTALLED),
    **dict.fromkeys(("include_dashboard", "dashboard_host", "dashboard_port", "_metrics_export_port"), WATCHED),
    **dict.fromkeys(("job_config", "_tracing_startup_hook", "logging_config", "logging_format", "local_mode"), CODE),
}


class RayOptions(ObjectOrJson):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        given = super()._deserialize(value, attr, data, **kwargs)
        for key, item in given.items():
            _check(key, item)
        return given


def _check(key: str, value: Any) -> None:
    if key in REFUSED:
        reason = Text(REFUSED[key])
        raise refuse("has the key {key!r}, which is not supported: {reason}", "unsupported", key=key, reason=reason)
    if key not in ALLOWED:
        near = did_you_mean(key, ALLOWED)
        raise refuse("has the key {key}: not allowed{near}", "unknown_field", key=shown(key), near=near)
    if value is not None and (right := ALLOWED[key](value)) is not None:
        raise refuse("has {key} {value}: must be {right}", key=key, value=shown(value), right=right)
