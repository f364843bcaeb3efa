"""How an attempt ends without a result: what is raised on the way there, and what it says."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from shared import failures, tail
from shared.attempt import describe
from shared.errors import LeaseLost, TunesmithError

log = logging.getLogger(__name__)


class Withdrawn(Exception):
    """The attempt ends without a result, as wanted or as must be; carries why, for the job's events."""


class Failed(Exception):
    """The job has failed; carries its error as the ledger keeps it."""

    def __init__(self, error: Mapping[str, Any]):
        self.error = dict(error)
        super().__init__(str(self.error.get("message")))


def error_of(outcome: tail.Line) -> dict[str, Any]:
    error = outcome.data.get("error")
    return dict(error) if isinstance(error, dict) else {"code": "child_failed", "message": outcome.message}


@contextmanager
def as_failure(context: Mapping[str, Any]) -> Iterator[None]:
    """What a kind's work raises fails the job, not the worker."""
    try:
        yield
    except LeaseLost:
        raise
    except TunesmithError as error:
        raise Failed(describe(error)) from error
    except Exception as error:  # the edge to a kind's own code
        log.exception("The job failed outside of its child", extra=dict(context))
        known = failures.code_of(error)
        raise Failed(describe(error, code="worker_failed" if known == failures.UNKNOWN else known)) from error
