"""Keys of requests that a model answers, remembered for a moment: a revoked key opens these routes for no longer than a
second. All other routes ask the ledger each time.

While keys are used, all of them are looked for in the ledger again in the background, so that a request waits for it
only after a pause: reading took several milliseconds, which were before the first token.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Mapping

from gateway.freshening import Freshening
from shared.records import ApiKey

REMEMBER_SECONDS = 1.0
#: For how long after its last request a key is looked for before anybody waits for it.
USED_SECONDS = 30.0
#: Keys in use at once; beyond it all are forgotten.
MOST = 1024


class Keyring:
    def __init__(
        self,
        read: Callable[[str], ApiKey | None],
        valid: Callable[[Collection[str]], Mapping[str, ApiKey]],
        clock: Callable[[], float] = time.monotonic,
    ):
        """`read`: the key of a secret, from the ledger. `valid`: by id, those of these keys that open something."""
        self._read = read
        self._valid = valid
        self._clock = clock
        self._lock = threading.Lock()
        #: By the secret's sha256: a secret is not kept. When it was read, and the key.
        self._known: dict[bytes, tuple[float, ApiKey]] = {}
        #: When each was last used, by id.
        self._used: dict[str, float] = {}
        self._freshening = Freshening("keyring", REMEMBER_SECONDS / 2, self.freshen)

    def known(self, secret: str) -> ApiKey | None:
        """As it was read lately; None where it would have to be read."""
        known, now = self._known.get(_name(secret)), self._clock()
        if known is None or now - known[0] >= REMEMBER_SECONDS:
            return None
        self._used[known[1].id] = now
        return known[1]

    def authenticate(self, secret: str) -> ApiKey | None:
        if (known := self.known(secret)) is not None:
            return known
        name, now = _name(secret), self._clock()
        key = self._read(secret)
        with self._lock:
            if len(self._known) >= MOST:
                self._known, self._used = {}, {}
            if key is None:
                self._known.pop(name, None)
            else:
                self._known[name] = now, key
                self._used[key.id] = now
                self._freshening.begin()
        return key

    def freshen(self) -> bool:
        """Read again what was used lately, and forget the rest; whether there is anything of that kind."""
        with self._lock:
            now = self._clock()
            # A copy: who uses a key that is known takes no lock.
            used = {id for id, at in list(self._used.items()) if now - at < USED_SECONDS}
        valid = self._valid(used) if used else {}
        with self._lock:
            known = list(self._known.items())
            fresh = {name: (now, valid[key.id]) for name, (at, key) in known if at <= now and key.id in valid}
            # At once, for those who look without the lock; and those that were read since.
            self._known = fresh | {name: one for name, one in known if one[0] > now}
            self._used = {id: at for id, at in list(self._used.items()) if id in valid or at > now}
            return bool(self._known)


def _name(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
