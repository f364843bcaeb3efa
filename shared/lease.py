"""A worker's hold on one job: every write of an attempt goes through it, fenced by the attempt's number.

The ledger may be away for a while. Renewing then fails quietly (the keeper ends the child when that takes too long);
writes that must happen are tried again until the ledger answers, or says that the job is no longer ours (LeaseLost).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from shared.errors import LeaseLost
from shared.job import Wanted

if TYPE_CHECKING:
    from shared.records import NewEvent
    from shared.store import Store

log = logging.getLogger(__name__)
T = TypeVar("T")

#: The ledger cannot be reached, or is locked: what waiting may cure.
LEDGER_AWAY = (OperationalError, InterfaceError, PoolTimeoutError)
RETRY_SECONDS = 1.0


class Lease:
    def __init__(self, store: Store, job_id: str, attempt: int, stopping: threading.Event, patience_seconds: float):
        self.store = store
        self.job_id = job_id
        self.attempt = attempt
        #: What the user wants, as of the last renewal.
        self.wanted = Wanted.RUN
        #: Monotonic time when the last good renewal began: until then at least the job was ours.
        self.renewed_at = time.monotonic()
        self._stopping = stopping
        self._patience_seconds = patience_seconds

    def renew(
        self,
        events: Sequence[NewEvent] = (),
        offset: int | None = None,
        phase: str | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> bool:
        """One transaction with all that is new; False when the ledger cannot be reached. Raises LeaseLost."""
        began = time.monotonic()
        try:
            self.wanted = self.store.attempts.renew(
                self.job_id,
                self.attempt,
                events=events,
                offset=offset,
                phase=phase,
                progress=dict(progress) if progress else None,
            )
        except LEDGER_AWAY as error:
            log.warning("The ledger cannot be reached: %s", type(error).__name__, extra={"job_id": self.job_id})
            return False
        self.renewed_at = began
        return True

    def offset(self) -> int | None:
        """How far events.jsonl is committed; None when the ledger cannot be reached."""
        try:
            return self.store.attempts.offset(self.job_id, self.attempt)
        except LEDGER_AWAY:
            return None

    def is_hopeless(self) -> bool:
        """Whether this worker must end and the ledger has been away for longer than its patience."""
        return self._stopping.is_set() and time.monotonic() - self.renewed_at > self._patience_seconds

    def insist(self, write: Callable[[], T]) -> T:
        """Do a fenced write, again and again while the ledger is away. Raises LeaseLost."""
        while True:
            try:
                return write()
            except LEDGER_AWAY as error:
                log.warning("The ledger cannot be reached: %s", type(error).__name__, extra={"job_id": self.job_id})
                if self.is_hopeless():
                    raise LeaseLost("the ledger is away and this worker must end") from error
            time.sleep(RETRY_SECONDS)
