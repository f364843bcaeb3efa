"""The volumes of this machine that a job writes on: which has least room. Looks only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shared import failures
from shared.errors import TunesmithError

#: With less than this a volume counts as full: a failed write leaves some room.
FULL_BYTES = 16 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Volume:
    #: Where it is mounted.
    place: Path
    free_bytes: int
    total_bytes: int

    @property
    def is_full(self) -> bool:
        return self.free_bytes < FULL_BYTES

    def __str__(self) -> str:
        free, total = (f"{count / 1024**3:,.2f}" for count in (self.free_bytes, self.total_bytes))
        return f"{self.place} has {free} GiB free of {total}"


class NoRoom(TunesmithError):
    """A volume is too small for what is to be written."""

    code = failures.DISK

    def __init__(self, volume: Volume, needed_bytes: int):
        need, free = (f"{size / 1024**3:.2f}" for size in (needed_bytes, volume.free_bytes))
        text = "{need} GiB would be written, and {place} has {free} free"
        super().__init__(text, need=need, place=volume.place, free=free)
        self.details = {"volume": str(volume.place), "free_bytes": volume.free_bytes, "needed_bytes": needed_bytes}


def require(path: Path, needed_bytes: int) -> None:
    """Raises NoRoom where its volume has less."""
    there = volume(path)
    if there is not None and there.free_bytes < needed_bytes:
        raise NoRoom(there, needed_bytes)


def fullest(paths: Iterable[Path]) -> Volume | None:
    """The one with least room among those on which the paths lie; None where none of them exists."""
    found = [there for path in paths if (there := volume(path)) is not None]
    return min(found, key=lambda there: there.free_bytes, default=None)


def room(run_dir: Path, storage: Path | None) -> dict[str, int]:
    """What a worker says of its disks: bytes that are free where attempts run, and in the storage where that is a
    folder on another volume."""
    here, there = volume(run_dir), volume(storage) if storage is not None else None
    if here is None:
        return {}
    apart = there is not None and there.place != here.place
    return {"free_bytes": here.free_bytes, **({"storage_free_bytes": there.free_bytes} if there and apart else {})}


def volume(path: Path) -> Volume | None:
    """The one that the path lies on, or will; None where the path is not absolute."""
    there = next((place for place in (path, *path.parents) if place.exists()), None)
    if there is None or not path.is_absolute():
        return None
    usage = shutil.disk_usage(there)
    place = next(up for up in (there.resolve(), *there.resolve().parents) if os.path.ismount(up))
    return Volume(place=place, free_bytes=usage.free, total_bytes=usage.total)
