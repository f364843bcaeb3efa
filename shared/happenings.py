"""What the events of a deployment say that its workers see happen: pure functions."""

from __future__ import annotations

from shared.records import NewEvent, Replica
from shared.tongues import Text

#: Of a failed server's log, in the event; the whole end of it is in the replica's row.
LOG_CHARACTERS = 4_000


def ready(replica: Replica, seconds: float) -> NewEvent:
    text = Text("Replica {ordinal} is ready after {seconds} s", ordinal=replica.ordinal, seconds=round(seconds, 1))
    return NewEvent(type="ready", message=text, data={"seconds": round(seconds, 3)})


def failed(replica: Replica, status: str, error: str, log_tail: str | None, pause_seconds: float) -> NewEvent:
    """`status` is what it had when it failed: one that was ready has crashed."""
    text = "Replica {ordinal} could not be started, next try in {seconds} s: {error}"
    if status == "ready":
        text = "Replica {ordinal} crashed and is started again in {seconds} s: {error}"
    told = Text(text, ordinal=replica.ordinal, seconds=round(pause_seconds), error=error)
    data = {"error": error, "retry_seconds": pause_seconds, "log_tail": (log_tail or "")[-LOG_CHARACTERS:]}
    return NewEvent(type="crashed" if status == "ready" else "failed", level="error", message=told, data=data)


def adapter_loaded(replica: Replica, adapter: str, seconds: float) -> NewEvent:
    text = Text(
        "Replica {ordinal} has loaded adapter {adapter} after {seconds} s",
        ordinal=replica.ordinal,
        adapter=adapter,
        seconds=round(seconds, 1),
    )
    return NewEvent(type="adapter_loaded", message=text, data={"adapter": adapter, "seconds": round(seconds, 3)})


def adapter_failed(replica: Replica, adapter: str, error: str, pause_seconds: float) -> NewEvent:
    text = Text(
        "Replica {ordinal} could not load adapter {adapter}, next try in {seconds} s: {error}",
        ordinal=replica.ordinal,
        adapter=adapter,
        seconds=round(pause_seconds),
        error=error,
    )
    data = {"adapter": adapter, "error": error, "retry_seconds": pause_seconds}
    return NewEvent(type="adapter_failed", level="error", message=text, data=data)


def adapter_unloaded(replica: Replica, adapter: str) -> NewEvent:
    text = Text("Replica {ordinal} has unloaded adapter {adapter}", ordinal=replica.ordinal, adapter=adapter)
    return NewEvent(type="adapter_unloaded", message=text, data={"adapter": adapter})
