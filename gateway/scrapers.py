"""Keys that read /metrics, remembered while the ledger is away: what happens then is what Prometheus is there for.

A key that the ledger knew within the last hour opens this one route, and no other, until the ledger answers again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from shared.errors import Unavailable
from shared.lease import LEDGER_AWAY
from shared.metrics.impatient import Impatient
from shared.records import ApiKey
from shared.store import Store

REMEMBER_SECONDS = 3600.0
#: Keys at once; beyond it all are forgotten.
MOST = 64


@dataclass(frozen=True, kw_only=True)
class Scraper:
    key: ApiKey
    #: Whether it is of the first project: of whoever operates the platform.
    operates: bool


class Scrapers:
    def __init__(self, store: Store, impatient: Impatient, clock: Callable[[], float] = time.monotonic):
        self._store = store
        self._impatient = impatient
        self._clock = clock
        #: By the secret's sha256: a secret is not kept. When the ledger knew it.
        self._known: dict[bytes, tuple[float, Scraper]] = {}

    def authenticate(self, secret: str) -> Scraper | None:
        """Raises: Unavailable, when the ledger is away and did not know this key lately"""
        name, now = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest(), self._clock()
        try:
            found = self._impatient.ask(lambda: self._read(secret))
        except (*LEDGER_AWAY, OSError) as error:  # a time-out, or the file of an SQLite ledger
            known = self._known.get(name)
            if known is None or now - known[0] >= REMEMBER_SECONDS:
                what = type(error).__name__
                raise Unavailable("The ledger does not answer ({error}): try again", error=what) from error
            return known[1]
        if found is None:
            self._known.pop(name, None)
            return None
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[name] = now, found
        return found

    def _read(self, secret: str) -> Scraper | None:
        key = self._store.keys.authenticate(secret)
        return Scraper(key=key, operates=key.project_id == self._store.projects.default().id) if key else None
