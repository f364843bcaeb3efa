"""The platform's folder: one `tunesmith up` at a time, the file that tells clients on this machine where it is."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.cli.client import CLIENT_FILE, read_client_file
from shared.errors import TunesmithError
from shared.settings import Settings


class AlreadyRunning(TunesmithError):
    """The platform runs in this home already."""


class PortTaken(TunesmithError):
    """The gateway's port is in use."""


@contextmanager
def hold(home: Path) -> Iterator[None]:
    """Be the only supervisor of this home. The kernel lets go when the process ends, whatever ends it."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(home / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode().strip() or "?"
        os.close(descriptor)
        raise AlreadyRunning(
            f"the platform in {home} is running already (process {holder}): stop that one, or set TUNESMITH_HOME to "
            "another folder and TUNESMITH_PORT to another port"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    try:
        yield
    finally:
        os.close(descriptor)


def require_port(settings: Settings) -> None:
    """Raises PortTaken: gunicorn would try five times and then say less."""
    if not is_free(settings.host, settings.port):
        raise PortTaken(f"port {settings.port} of {settings.host} is in use: set TUNESMITH_PORT to another one")


def free_ports(host: str, first: int, names: tuple[str, ...]) -> dict[str, int]:
    """A port for each name: `first` and those after it, so that they stay the same; where taken, any free one."""
    return {name: port if is_free(host, port) else _any_port(host) for port, name in enumerate(names, first)}


def is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As gunicorn does: connections of an earlier run that still close do not make the port busy.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind((host, port))
            return True
    return False


def public_url(settings: Settings) -> str:
    """Where clients on this machine reach the gateway."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return f"http://{host}:{settings.port}"


def write_client_file(settings: Settings, key: str | None) -> None:
    """For `tunesmith` commands on this machine; `key` None keeps the one that is there."""
    known = read_client_file(settings.home)
    values = {"url": public_url(settings), "key": key or known.get("key", "")}
    path = settings.home / CLIENT_FILE
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(values, file)
    fresh.replace(path)


def _any_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
