"""Which replica answers next: what the ledger says runs (kept for a second), least busy first, broken ones left out.

Among replicas that are about equally busy those requests go to the same one which begin alike: it has the keys and
values of that beginning in its cache (vLLM's prefix caching) and reads only what is new, e.g. the last turn.

Does not talk to replicas (gateway/proxy.py) and does not start any (inference_worker).
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from gateway.freshening import Freshening
from shared import routing, sharing
from shared.records import Deployment
from shared.routing import Endpoint, Fleet

#: How old the list of ready replicas may be: a deployment that became ready answers within this time.
CACHE_SECONDS = 1.0
#: A name that was not found, or was not ready, is looked for in the ledger no more often: a client that asks for one
#: again and again would have it read each time, with everybody waiting. Whoever is asked for the first time is found
#: as soon as it is deployed.
AGAIN_SECONDS = 0.5
#: Names of which that is remembered; beyond it all are forgotten.
MOST_NAMES = 1024
#: For how long after a request its project is read again before anybody waits for it.
ASKED_SECONDS = 30.0
#: How long a replica that broke a connection is left alone where there are others; its worker needs about that long to
#: notice and say so.
EJECT_SECONDS = 5.0
#: Requests that a replica may have more than the least busy one and still get those that begin like earlier ones.
SLACK = 2.0
#: Of the beginning: as much tells conversations apart, and less of it alike is not worth a busier replica.
PREFIX_CHARS, LEAST_PREFIX_CHARS = 4096, 512


class Directory:
    """What runs in each project, no older than `CACHE_SECONDS`. While a project is asked it is read again in the
    background, so that a request waits for the ledger only after a pause."""

    def __init__(
        self,
        read: Callable[[str], Fleet],
        version: Callable[[str, str], str | None] = lambda project_id, name: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`version`: of a project, the catalog's name of what is called `family@version`; None: no such model."""
        self._read = read
        self._version = version
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Fleet, dict[str, str | None]]] = {}
        #: When each project was last asked for.
        self._asked: dict[str, float] = {}
        self._freshening = Freshening("directory", CACHE_SECONDS / 2, self.freshen)
        #: When the ledger was last read for the sake of a project's name.
        self._looked_again: dict[tuple[str, str], float] = {}
        #: Counts what was forgotten: a reading that began before is not kept.
        self._epoch = 0

    def fleet(self, project_id: str) -> Fleet:
        return self._look(project_id)[0]

    def known(self, project_id: str, name: str, user: str = "") -> tuple[Fleet, Deployment] | None:
        """As `find`, and what runs, without waiting for anything: None where the ledger would have to be asked."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            read_at, fleet, versions = self._known.get(project_id, (float("-inf"), Fleet(), {}))
            if self._clock() - read_at >= CACHE_SECONDS:
                return None
            self._ask(project_id)
        finally:
            self._lock.release()
        with suppress(KeyError):
            found = routing.find(fleet, name, versions.__getitem__, _draw(name, user))
            return (fleet, found) if found is not None else None
        return None

    def find(self, project_id: str, name: str, user: str = "") -> Deployment | None:
        """The deployment that answers to `name` this time: a route may mean another the next, but one per user."""
        found = self._find(project_id, name, user)
        if found is None and self.look_again(project_id, name):
            # Perhaps it was given a moment ago.
            found = self._find(project_id, name, user)
        return found

    def look_again(self, project_id: str, name: str) -> bool:
        """Has the ledger read next time, for what it said of `name` may be old; False: that was done a moment ago."""
        with self._lock:
            now = self._clock()
            if now - self._looked_again.get((project_id, name), float("-inf")) < AGAIN_SECONDS:
                return False
            if len(self._looked_again) >= MOST_NAMES:
                self._looked_again.clear()
            self._looked_again[project_id, name] = now
        self.forget(project_id)
        return True

    def _find(self, project_id: str, name: str, user: str) -> Deployment | None:
        fleet, versions = self._look(project_id)

        def version(name: str) -> str | None:
            if name not in versions:
                versions[name] = self._version(project_id, name)
            return versions[name]

        return routing.find(fleet, name, version, _draw(name, user))

    def _look(self, project_id: str) -> tuple[Fleet, dict[str, str | None]]:
        # The lock is held while reading: 64 threads must not ask the ledger the same thing at once.
        with self._lock:
            self._ask(project_id)
            read_at, fleet, versions = self._known.get(project_id, (float("-inf"), Fleet(), {}))
            if self._clock() - read_at >= CACHE_SECONDS:
                fleet, versions = self._read(project_id), {}
                self._known[project_id] = (self._clock(), fleet, versions)
            return fleet, versions

    def forget(self, project_id: str) -> None:
        """Reads the ledger again next time: after a replica failed, what we know is stale."""
        with self._lock:
            self._epoch += 1
            self._known.pop(project_id, None)

    def freshen(self) -> bool:
        """Read again what was asked for lately; whether there is anything of that kind."""
        with self._lock:
            now, epoch = self._clock(), self._epoch
            self._asked = {id: asked_at for id, asked_at in self._asked.items() if now - asked_at < ASKED_SECONDS}
            asked = list(self._asked)
        for project_id in asked:
            began, fleet = self._clock(), self._read(project_id)
            with self._lock:
                if self._epoch == epoch:
                    self._known[project_id] = (began, fleet, {})
        return bool(asked)

    def _ask(self, project_id: str) -> None:
        """The caller holds the lock."""
        self._freshening.begin()
        self._asked[project_id] = self._clock()


def _draw(name: str, user: str) -> Callable[[], float]:
    """Which of a route's targets it is: the same for all requests of one user."""
    return partial(sharing.fraction, name, user) if user else random.random


class Balancer:
    """Counts our own requests in flight per replica and remembers which replica broke a moment ago."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()
        self._ejected_until: dict[str, float] = {}

    def take(self, replicas: Sequence[Endpoint], tried: Collection[str] = (), prefix: str = "") -> Endpoint | None:
        """The least busy replica, or of those that are hardly busier the one that gets what begins with `prefix`; it
        counts as busy with one more until `give_back`. Where all broke a moment ago, the one that did first: its
        connection may have been all that broke. None when none is left."""
        with self._lock:
            left = [replica for replica in replicas if replica.id not in tried]
            if not left:
                return None
            usable = self._unbroken(left) or [min(left, key=lambda replica: self._ejected_until[replica.id])]
            busy = {replica.id: replica.load + self._in_flight[replica.id] for replica in usable}
            if prefix:
                most = min(busy.values()) + SLACK
                # The highest random weight: with one replica more or less the others keep their share.
                near = [replica for replica in usable if busy[replica.id] <= most]
                chosen = max(near, key=lambda replica: sharing.fraction(prefix, replica.id))
            else:
                chosen = min(usable, key=lambda replica: (busy[replica.id], replica.id))
            self._in_flight[chosen.id] += 1
            return chosen

    def _unbroken(self, replicas: Sequence[Endpoint]) -> list[Endpoint]:
        """The caller holds the lock."""
        now = self._clock()
        return [replica for replica in replicas if self._ejected_until.get(replica.id, now) <= now]

    def give_back(self, replica: Endpoint) -> None:
        with self._lock:
            self._in_flight[replica.id] -= 1
            if self._in_flight[replica.id] <= 0:
                del self._in_flight[replica.id]

    def eject(self, replica: Endpoint) -> None:
        with self._lock:
            now = self._clock()
            self._ejected_until = {id: until for id, until in self._ejected_until.items() if until > now}
            self._ejected_until[replica.id] = now + EJECT_SECONDS

    def num_in_flight(self, replica_id: str) -> int:
        with self._lock:
            return self._in_flight[replica_id]


def beginning(given: Mapping[str, Any]) -> str:
    """What a request has in common with those whose keys and values it could use; empty where that is too little.

    Of a conversation the first two messages: they stay the same from turn to turn.
    """
    asked = given.get("prompt") if "messages" not in given else given["messages"][:2]
    text = asked if isinstance(asked, str) else json.dumps(asked)
    return text[:PREFIX_CHARS] if len(text) >= LEAST_PREFIX_CHARS else ""
