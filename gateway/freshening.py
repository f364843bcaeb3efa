"""Reads again in the background what is in use, so that nobody waits for the ledger who uses it all the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from shared.lease import LEDGER_AWAY


class Freshening:
    """A thread that reads every so many seconds, as long as something is used."""

    def __init__(self, name: str, seconds: float, read: Callable[[], bool]):
        """`read`: whether there is anything in use. What it raises ends the thread, and the next use begins another."""
        self._name = name
        self._seconds = seconds
        self._read = read
        self._runs = False

    def begin(self) -> None:
        """Something is used; the caller holds a lock that all who call this have in common."""
        if not self._runs:
            self._runs = True
            threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        try:
            is_used = True
            while is_used:
                time.sleep(self._seconds)
                with suppress(*LEDGER_AWAY):  # who asks is told
                    is_used = self._read()
        finally:
            self._runs = False
