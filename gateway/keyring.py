"""Keys of requests that a model answers, remembered for a moment: the ledger is asked once a second for each, and a
revoked key opens these routes for no longer. All other routes ask the ledger each time.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable

from shared.records import ApiKey

REMEMBER_SECONDS = 1.0
#: Keys in use at once; beyond it all are forgotten.
MOST = 1024


class Keyring:
    def __init__(self, read: Callable[[str], ApiKey | None], clock: Callable[[], float] = time.monotonic):
        """`read`: the key of a secret, from the ledger."""
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        #: By the secret's sha256: a secret is not kept.
        self._known: dict[bytes, tuple[float, ApiKey]] = {}

    def authenticate(self, secret: str) -> ApiKey | None:
        name = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
        known = self._known.get(name)
        if known is not None and self._clock() - known[0] < REMEMBER_SECONDS:
            return known[1]
        read_at, key = self._clock(), self._read(secret)
        with self._lock:
            if len(self._known) >= MOST:
                self._known.clear()
            if key is None:
                self._known.pop(name, None)
            else:
                self._known[name] = read_at, key
        return key
