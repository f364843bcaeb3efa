"""The broker: reached, with an append-only file, and dropping nothing when its memory is full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from gateway.admin.doctor.findings import Finding, error, ok, warning
from shared import broker
from shared.errors import Unavailable
from shared.settings import Settings

SECONDS = 3.0
EMBEDDED = "redis+socket://"


def look(settings: Settings) -> Iterator[Finding]:
    url = settings.broker_url
    if url.startswith(EMBEDDED) and not Path(url.removeprefix(EMBEDDED)).exists():
        yield _startable()
        return
    try:
        with redis.Redis.from_url(
            url.replace(EMBEDDED, "unix://"), socket_timeout=SECONDS, socket_connect_timeout=SECONDS
        ) as server:
            yield from _configured(server.info())
    except ValueError as wrong:
        yield error("broker", f"TUNESMITH_BROKER_URL is no broker's ({wrong})", "write redis://:password@host:6379/0")
    except redis.AuthenticationError:
        yield error("broker", "it refuses the password", "set the password of TUNESMITH_BROKER_URL right")
    except redis.RedisError as refused:
        if url.startswith(EMBEDDED):
            yield _startable()  # of a run that is over
            return
        yield error(
            "broker", f"it does not answer ({refused})",
            "see that Redis runs and is reached from here at TUNESMITH_BROKER_URL; jobs are kept and wait meanwhile",
        )  # fmt: skip


def _startable() -> Finding:
    try:
        return ok("broker", f"started by `tunesmith up` ({broker.program()})")
    except Unavailable as missing:
        return error(
            "broker", missing.message, "install redis-server, or name a Redis of your own in TUNESMITH_BROKER_URL"
        )


def _configured(info: dict[str, Any]) -> Iterator[Finding]:
    """The sweep repairs what a broker loses; it takes seconds that nobody need wait."""
    yield ok("broker", f"reached, version {info.get('valkey_version') or info.get('redis_version')}")
    if not info.get("aof_enabled"):
        yield warning(
            "broker", "it keeps no append-only file: a restart forgets who is to be woken", "set `appendonly yes`"
        )
    if info.get("maxmemory") and info.get("maxmemory_policy") != "noeviction":
        yield warning(
            "broker", f"it drops messages when its memory is full ({info.get('maxmemory_policy')})",
            "set `maxmemory-policy noeviction`",
        )  # fmt: skip
