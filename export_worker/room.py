"""Room for an export on this machine, looked at before it begins: what cannot be written is said before hours of work.

Other jobs write meanwhile, so a disk may still be full later; the child then fails with the same code.
"""

from __future__ import annotations

from pathlib import Path

from shared import failures, volumes
from shared.advice import exports
from shared.advice.memory import GIB
from shared.catalog import Resolved, is_on_hub
from shared.errors import TunesmithError
from shared.spec import ExportSpec
from shared.volumes import Volume
from shared.work import Run


class NoRoom(TunesmithError):
    """The disk is too small for the export."""

    code = failures.DISK

    def __init__(self, volume: Volume, needed_bytes: int):
        need, free = (f"{size / GIB:.2f}" for size in (needed_bytes, volume.free_bytes))
        text = "the export writes {need} GiB, and {place} has {free} free"
        super().__init__(text, need=need, place=volume.place, free=free)
        self.details = {"volume": str(volume.place), "free_bytes": volume.free_bytes, "needed_bytes": needed_bytes}


def size_of(base: Resolved) -> int | None:
    """Bytes of the base's files; None: they are on the Hub."""
    if base.record is not None:
        return None if is_on_hub(base.record.uri) else int(base.record.size_bytes)
    if base.path is None:
        return None
    return sum(file.stat().st_size for file in base.path.iterdir() if file.is_file())


def require(run: Run, spec: ExportSpec, base: Resolved) -> None:
    """Raises NoRoom where the volume of the attempt, or of the storage, has less than will be written."""
    needed = exports.needs(spec, exports.Known(base=base.name, base_bytes=size_of(base)))
    if needed is None:
        return
    _require(needed.scratch, run.folder)
    if run.artifacts.root is not None:
        _require(needed.storage, run.artifacts.root)


def _require(needed: int, place: Path) -> None:
    volume = volumes.fullest([place])
    if volume is not None and volume.free_bytes < needed:
        raise NoRoom(volume, needed)
