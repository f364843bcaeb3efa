"""Adapters on one running replica: those that deployments want on it are loaded, those that nobody wants unloaded.

What is wanted is asked of the ledger again and again, so nothing is lost when a message would be: a process that was
started anew begins with none and loads all. Files come and go in a thread of their own, and the replica answers
meanwhile. An adapter that cannot be loaded says why in the replica's row, and is tried again, less and less often.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from inference_worker import files
from shared import catalog, happenings
from shared.artifact import ArtifactStore
from shared.errors import ModelNotLoaded, TunesmithError
from shared.lease import LEDGER_AWAY
from shared.records import Guest, NewEvent, Replica
from shared.store import Store

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
#: Gateways know what the ledger said a second ago: for so long requests still come.
LAST_REQUEST_SECONDS = 2.0
#: Pause after an adapter could not be loaded, doubled with each further time.
RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 300.0
#: The server may read an adapter's files again at any time: they are asked for, or the cache would forget them.
TOUCH_SECONDS = 3600.0


class Loader(Protocol):
    """What is asked of an engine, by a thread of its own. Raises ModelNotLoaded."""

    def load_adapter(self, name: str, folder: Path) -> None: ...
    def unload_adapter(self, name: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Failure:
    message: str
    count: int
    retry_at: float


class Adapters:
    """Of one process, from when it is ready to its end."""

    def __init__(
        self,
        store: Store,
        artifacts: ArtifactStore,
        replica: Replica,
        engine: Loader,
        max_rank: int | None,
        *,
        own: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`max_rank`: of the adapters that it takes; None: it takes none. `own`: the name of the one that it was
        started with."""
        self._store = store
        self._artifacts = artifacts
        self._replica = replica
        self._engine = engine
        self._max_rank = max_rank
        self._own = own
        self._clock = clock
        #: Folders by name, as far as requests may be sent.
        self._loaded: dict[str, Path] = {}
        #: Out of the row, and since when; still in the server, from its folder.
        self._leaving: dict[str, tuple[float, Path]] = {}
        self._failures: dict[str, Failure] = {}
        #: Folders by deployment and name: a name may be given to another model, a deployment to none.
        self._places: dict[tuple[str, str], Path] = {}
        self._touched_at = clock()
        self._ended = threading.Event()
        #: Names that it answers to, and why others are not among them: for the replica's row.
        self.told: tuple[list[str], dict[str, str]] = ([], {})
        self._seen = self.told
        self._events: SimpleQueue[NewEvent] = SimpleQueue()

    def has_news(self) -> bool:
        """Whether `told` is other than when this was asked last, or something has happened."""
        before, self._seen = self._seen, self.told
        return before != self._seen or not self._events.empty()

    def take_events(self) -> list[NewEvent]:
        """What has happened since this was asked last."""
        return [self._events.get() for _ in range(self._events.qsize())]

    def end(self) -> None:
        self._ended.set()

    def keep(self) -> None:
        """Until `end`: what a thread of its own does."""
        while not self._ended.is_set():
            try:
                self.look()
            except LEDGER_AWAY as error:
                log.warning("The ledger cannot be reached: %s", type(error).__name__, extra=self._context())
            except Exception:  # the edge of the thread: without it no adapter would come or go any more
                log.exception("Adapters could not be looked after", extra=self._context())
            self._ended.wait(LOOK_SECONDS)

    def look(self) -> None:
        """Bring the replica one step closer to what is wanted."""
        guests = self._store.deployments.guests(self._replica.deployment_id)
        places = {name: self._place(guest, name) for guest in guests for name in self._asked(guest)}
        for name, place in places.items():
            # Another model that got the name of one that was deleted.
            if place is not None and self._loaded.get(name, place) != place:
                self._leave(name)
        for guest in guests:
            self._serve(guest, places)
        self._unload({name for guest in guests for name in self._asked(guest)})
        if self._clock() - self._touched_at > TOUCH_SECONDS:
            self._places.clear()
            self._touched_at = self._clock()

    def _serve(self, guest: Guest, places: Mapping[str, Path | None]) -> None:
        """The adapter that is wanted, or the one before it as long as that cannot be loaded."""
        if not self._load(guest.model_name, places) and guest.previous is not None:
            self._load(guest.previous, places)

    def _load(self, name: str, places: Mapping[str, Path | None]) -> bool:
        if name in self._loaded:
            return True
        folder, failure = places[name], self._failures.get(name)
        if folder is None or (failure is not None and self._clock() < failure.retry_at) or self._ended.is_set():
            return False
        if name in self._leaving and self._leaving[name][1] != folder:
            return False
        began = self._clock()
        try:
            self._check(folder)
            self._engine.load_adapter(name, folder)
        except TunesmithError as error:
            self._fail(name, error.message)
            return False
        self._leaving.pop(name, None)
        self._failures.pop(name, None)
        self._loaded[name] = folder
        self._tell()
        self._events.put(happenings.adapter_loaded(self._replica, name, self._clock() - began))
        log.info("Loaded adapter %s in %.2f s", name, self._clock() - began, extra=self._context())
        return True

    def _check(self, folder: Path) -> None:
        if self._max_rank is None:
            raise ModelNotLoaded("this replica takes no adapters: deploy it with adapter_host own")
        if (rank := files.adapter_rank(folder)) > self._max_rank:
            raise ModelNotLoaded(f"it has rank {rank}, and this replica takes adapters up to {self._max_rank}")

    def _place(self, guest: Guest, name: str) -> Path | None:
        """Where its files lie on this machine; None: it has failed. May download them."""
        key, failure = (guest.deployment_id, name), self._failures.get(name)
        if key in self._places:
            return self._places[key]
        if failure is not None and self._clock() < failure.retry_at:
            return None
        try:
            model = self._store.models.get(self._replica.project_id, name)
            self._places[key] = Path(catalog.location(model.uri, self._artifacts))
        except (TunesmithError, OSError) as error:
            self._fail(name, getattr(error, "message", None) or f"its files cannot be brought: {error}")
            return None
        return self._places[key]

    def _fail(self, name: str, message: str) -> None:
        count = self._failures[name].count + 1 if name in self._failures else 0
        pause = min(RETRY_SECONDS * 2**count, MAX_RETRY_SECONDS)
        self._failures[name] = Failure(message=message, count=count, retry_at=self._clock() + pause)
        self._tell()
        if count == 0:
            self._events.put(happenings.adapter_failed(self._replica, name, message, pause))
        log.warning("Adapter %s is not loaded: %s", name, message, extra=self._context())

    def _asked(self, guest: Guest) -> set[str]:
        """An adapter, and the one before it until it is loaded."""
        before = {guest.previous} if guest.previous is not None and guest.model_name not in self._loaded else set()
        return {guest.model_name, *before}

    def _unload(self, needed: set[str]) -> None:
        """First out of the row, and when gateways have seen that, out of the server."""
        for name in [name for name in self._loaded if name not in needed]:
            self._leave(name)
        for name in [name for name in self._failures if name not in needed]:
            del self._failures[name]
            self._tell()
        for name, (since, _) in list(self._leaving.items()):
            if self._clock() - since >= LAST_REQUEST_SECONDS:
                del self._leaving[name]
                self._let_go(name)

    def _let_go(self, name: str) -> None:
        if name == self._own:
            return
        try:
            self._engine.unload_adapter(name)
        except TunesmithError as error:  # it stays until the process ends, and nobody asks it
            log.warning("Adapter %s stays: %s", name, error.message, extra=self._context())
        else:
            self._events.put(happenings.adapter_unloaded(self._replica, name))
            log.info("Unloaded adapter %s", name, extra=self._context())

    def _leave(self, name: str) -> None:
        self._leaving[name] = self._clock(), self._loaded.pop(name)
        self._tell()

    def _tell(self) -> None:
        self.told = sorted(self._loaded), {name: failure.message for name, failure in self._failures.items()}

    def _context(self) -> dict[str, str]:
        return {"replica_id": self._replica.id, "model": self._replica.deployment_name}
