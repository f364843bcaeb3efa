"""One writer of a place at a time: who comes second is told who writes, and takes over from one that is gone.

In a folder the kernel keeps the lock and frees it with its process. In an object store the holder writes an object anew
every half minute. Clocks of two machines may differ, so they only refuse: that a holder is gone is seen by watching
that its object does not change. Two that take over at once both believe it for a moment; so each asks again before it
makes a backup known or deletes anything (`Hold.check`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from shared.errors import Conflict

log = logging.getLogger(__name__)

NAME = "lock"
LONG_AGO = "1970-01-01T00:00:00+00:00"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds."""

    renew: float = 30.0
    #: Without being written anew, by the clocks of two machines: from then on a holder may be gone.
    silent: float = 300.0
    #: What may be gone is watched for this long; longer than `renew`.
    watch: float = 75.0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the lock says."""

    token: str
    holder: str
    #: RFC 3339.
    since: str
    renewed_at: str

    def told(self) -> str:
        return f"{self.holder}, since {self.since}"


def _claim() -> Claim:
    now = _now()
    return Claim(
        token=os.urandom(8).hex(), holder=f"{platform.node()}, process {os.getpid()}", since=now, renewed_at=now
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _parse(text: str | bytes) -> Claim:
    with suppress(ValueError, TypeError):
        return Claim(**json.loads(text))
    return Claim(token="", holder="a writer that does not say who it is", since="?", renewed_at=LONG_AGO)


@contextmanager
def of_folder(root: Path, url: str) -> Iterator[None]:
    """Raises Conflict."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(root / NAME, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = _parse(file.read()).told()
            raise Conflict(f"another backup is being written to {url} ({who}): wait until it is done") from None
        file.truncate()
        file.write(json.dumps(asdict(_claim())))
        file.flush()
        yield
        file.seek(0)
        file.truncate()


class Hold:
    """The lock object of a place in an object store."""

    def __init__(self, fs: Any, path: str, url: str, pace: Pace) -> None:
        self._fs, self._path, self._url, self._pace = fs, path, url, pace
        self._claim = _claim()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="backup lock", daemon=True)

    def take(self, say: Say) -> None:
        """Raises Conflict where another writer lives."""
        while not self._create():
            if (other := self._read()) is not None:
                self._outlive(other, say)
        self.check()
        self._thread.start()

    def check(self) -> None:
        """Raises Conflict when another took it, believing this one gone."""
        if (found := self._read()) is None or found.token != self._claim.token:
            who = f" by {found.told()}" if found else ""
            raise Conflict(f"the lock of {self._url} was taken over{who}: this backup is given up, start it again")

    def let_go(self) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(Conflict, OSError):
            self.check()
            self._fs.rm_file(self._path)

    def _create(self) -> bool:
        """False: there is one."""
        content = json.dumps(asdict(self._claim)).encode()
        try:
            self._fs.pipe_file(self._path, content, mode="create")
        except OSError as refused:
            if self._read() is not None:
                return False
            if refused.errno != errno.ENOSYS:
                raise
            self._fs.pipe_file(self._path, content)  # a store without conditional writes
        return True

    def _outlive(self, other: Claim, say: Say) -> None:
        """Delete the lock of one that is gone. Raises Conflict."""
        renewed = datetime.fromisoformat(other.renewed_at)
        if abs((datetime.now(UTC) - renewed).total_seconds()) < self._pace.silent:
            free = (renewed + timedelta(seconds=self._pace.silent)).isoformat(timespec="seconds")
            raise self._is_writing(other, f"; if it was killed, a backup takes over from it after {free}")
        say(f"the lock of {other.told()} was last renewed {other.renewed_at}: watching it for {self._pace.watch:g} s")
        end = time.monotonic() + self._pace.watch
        while time.monotonic() < end:
            time.sleep(min(1.0, self._pace.watch / 10))
            if (found := self._read()) != other:
                if found is not None and found.token == other.token:
                    raise self._is_writing(other)
                return  # it has ended meanwhile, or another was faster
        self._fs.rm_file(self._path)
        say(f"taken over from {other.told()}")

    def _is_writing(self, other: Claim, more: str = "") -> Conflict:
        return Conflict(f"another backup is being written to {self._url} ({other.told()}): wait until it is done{more}")

    def _renew(self) -> None:
        while not self._ended.wait(self._pace.renew):
            try:
                self.check()
                renewed = Claim(**{**asdict(self._claim), "renewed_at": _now()})
                self._fs.pipe_file(self._path, json.dumps(asdict(renewed)).encode())
            except Conflict:
                return  # told where it matters
            except Exception:  # the edge of a thread: an object store that is away may come back
                log.warning("The lock of %s could not be renewed", self._url, exc_info=True)

    def _read(self) -> Claim | None:
        try:
            return _parse(self._fs.cat_file(self._path))
        except FileNotFoundError:
            return None


@contextmanager
def of_store(fs: Any, path: str, url: str, pace: Pace, say: Say) -> Iterator[Hold]:
    """Raises Conflict."""
    hold = Hold(fs, path, url, pace)
    hold.take(say)
    try:
        yield hold
    finally:
        hold.let_go()
