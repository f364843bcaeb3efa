"""What the routes work with: built once per gateway process, found again through the running app."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from flask import current_app

from gateway.keyring import Keyring
from gateway.queueing import Lineups
from gateway.scrapers import Scrapers
from shared.artifact import ArtifactStore
from shared.metrics.counted import Metrics
from shared.queue import Queue
from shared.settings import Settings
from shared.store import Store
from shared.tracing import NoTracer, Tracer

if TYPE_CHECKING:
    from gateway.tailer import Tailer

#: Key among the app's extensions.
NAME = "tunesmith"
#: Previews that one gateway process makes at once: each takes a core and up to a gigabyte.
MAX_PREVIEWS = 2
#: Between two probes of a storage that could be written.
WRITE_EVERY_SECONDS = 15.0
#: Uploads looked at in processes of their own at once; others wait.
MAX_INSPECTIONS = 2


class Locks:
    """One lock per key, as long as somebody wants it. Of this process only: between gateways the ledger decides."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        #: Key -> its lock and how many hold it or wait for it.
        self._wanted: dict[tuple[str, ...], tuple[threading.Lock, int]] = {}

    @contextmanager
    def holding(self, *key: str) -> Iterator[None]:
        with self._changing:
            lock, count = self._wanted.get(key, (threading.Lock(), 0))
            self._wanted[key] = (lock, count + 1)
        try:
            with lock:
                yield
        finally:
            with self._changing:
                count = self._wanted[key][1] - 1
                self._wanted[key] = (lock, count)
                if not count:
                    del self._wanted[key]


class StorageProbe:
    """Whether the storage can be written. Tried every now and then only: where it is no folder, each write costs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._good_until = 0.0

    def check(self, artifacts: ArtifactStore) -> None:
        """Raises what writing does."""
        with self._lock:
            if time.monotonic() < self._good_until:
                return
            artifacts.storage_id()
            artifacts.check_writable()
            self._good_until = time.monotonic() + WRITE_EVERY_SECONDS


@dataclass(frozen=True, kw_only=True)
class Services:
    settings: Settings
    store: Store
    artifacts: ArtifactStore
    queue: Queue
    metrics: Metrics
    tailer: Tailer
    keyring: Keyring
    scrapers: Scrapers
    tracer: Tracer = field(default_factory=NoTracer)
    #: Where queued jobs stand.
    lineups: Lineups = field(default_factory=Lineups)
    storage_probe: StorageProbe = field(default_factory=StorageProbe)
    #: Held while a record is looked for and made where there is none: two uploads of one file are one dataset.
    locks: Locks = field(default_factory=Locks)
    #: Held by each look at an upload that is large or binary: it takes a core and up to two gigabytes.
    inspections: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_INSPECTIONS))
    #: Held by each preview while its process runs.
    previews: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_PREVIEWS))


def services() -> Services:
    return cast(Services, current_app.extensions[NAME])
