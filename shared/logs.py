"""Logs as JSON, one object per line, of services and of their children: with the ids of the request and the job that a
line belongs to (shared/correlation.py), so that one search finds a request from the gateway down to the rank.

Standard library only: children write with it, whatever else their interpreter has.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shared import correlation

if TYPE_CHECKING:
    from shared.attempt import Attempt

#: Libraries that tell of every message or request that they carry.
_TALKATIVE = ("celery.worker.strategy", "celery.app.trace", "celery.beat", "httpx", "alembic", "fsspec", "botocore")
#: What every log record has; the rest came through `extra=`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: First message of a child's log: whose it is, which says nothing of how it ended (shared/crash.py).
BEGAN = "Child began"
#: Members of run.json that every line of a child has.
_OF_CHILD = ("job_id", "attempt", "request_id", "trace_id")


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, service, logger, message, the ids that are bound, what `extra=` gave."""

    def __init__(self, service: str):
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self.service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= correlation.current()
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(service: str, level: str = "INFO") -> None:
    """Send every log of this process to standard error as JSON. For entry points only."""
    root = _to_stderr(JsonFormatter(service))
    root.setLevel(level.upper())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def begin_child(attempt: Attempt, service: str, **ids: Any) -> None:
    """As `configure`, for a process that computes: a first line that says whose log it is, then warnings and errors.
    What libraries print by themselves stays as it is."""
    ids |= {name: attempt.run.get(name) for name in _OF_CHILD}
    root = _to_stderr(_OfChild(service, correlation.filled(**ids)))
    root.setLevel(logging.WARNING)
    own = logging.getLogger(__name__)
    own.setLevel(logging.INFO)
    own.info(BEGAN, extra={"pid": os.getpid(), "kind": attempt.run.get("kind")})


def is_beginning(line: str) -> bool:
    """Whether it is the first line of a child's log."""
    return line.startswith("{") and f'"message": "{BEGAN}"' in line


class _OfChild(JsonFormatter):
    """With the same ids in every thread: a child has one job."""

    def __init__(self, service: str, ids: dict[str, Any]):
        super().__init__(service)
        self._ids = ids

    def format(self, record: logging.LogRecord) -> str:
        vars(record).update({name: value for name, value in self._ids.items() if name not in vars(record)})
        return super().format(record)


def _to_stderr(formatter: logging.Formatter) -> logging.Logger:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    return root
