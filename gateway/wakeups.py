"""Telling the ledger which deployments are asked: those that nobody asks go to rest, and a request wakes them up.

Told every few seconds at most and from a thread of its own, so that no request waits for the ledger.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

log = logging.getLogger(__name__)

#: How often the same deployment is told of.
TELL_SECONDS = 5.0


class Asked:
    def __init__(self, tell: Callable[[str, str], object], clock: Callable[[], float] = time.monotonic):
        """`tell`: as `store.deployments.asked`."""
        self._tell = tell
        self._clock = clock
        self._lock = threading.Lock()
        self._told_at: dict[str, float] = {}
        # Its thread starts with the first request: gunicorn forks before.
        self._teller = ThreadPoolExecutor(max_workers=1, thread_name_prefix="asked")

    def __call__(self, project_id: str, deployment_id: str) -> None:
        with self._lock:
            now = self._clock()
            if now - self._told_at.get(deployment_id, float("-inf")) < TELL_SECONDS:
                return
            self._told_at[deployment_id] = now
        self._teller.submit(self._told, project_id, deployment_id)

    def _told(self, project_id: str, deployment_id: str) -> None:
        try:
            self._tell(project_id, deployment_id)
        except Exception:  # the edge of the thread: without the ledger nothing goes to rest either
            log.exception("The ledger was not told that %s is asked", deployment_id)
