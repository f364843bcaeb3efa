"""Files packed with gzip, unpacked while they are read; one that swells without end is given up."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from shared.tongues import Text

MAGIC = b"\x1f\x8b"
#: Unpacked bytes for each packed one, beyond the first FREE_BYTES. Text comes to 3 to 30, deflate's most is 1032.
MAX_RATIO = 100
FREE_BYTES = 32 * 1024**2
BUFFER_BYTES = 1 << 20
SWELLS = Text("unpacks to more than {most} times its size: upload it unpacked", most=MAX_RATIO)


class Bomb(ValueError):
    """The packed file is broken, or swells beyond what a dataset would."""


def is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, packed or not; reading it may raise Bomb."""
    if not is_packed(path):
        with path.open("rb") as file:
            yield file
        return
    with gzip.open(path) as packed:
        yield cast(BinaryIO, io.BufferedReader(_Bounded(packed, path.stat().st_size), BUFFER_BYTES))


def check(path: Path) -> None:
    """Whether the beginning of a packed file swells already, before any of it is parsed. Raises Bomb."""
    with path.open("rb") as file, gzip.open(file) as packed:
        done = 0
        try:
            while done < FREE_BYTES and (piece := packed.read(BUFFER_BYTES)):
                done += len(piece)
        except (OSError, EOFError, zlib.error) as error:
            raise Bomb(Text("is not a whole gzip file: {error}", error=error)) from error
        if done >= FREE_BYTES and done > MAX_RATIO * file.tell():
            raise Bomb(SWELLS)


class _Bounded(io.RawIOBase):
    def __init__(self, packed: gzip.GzipFile, packed_bytes: int):
        self._packed = packed
        self._left = FREE_BYTES + MAX_RATIO * packed_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        try:
            piece = self._packed.read(len(view))
        except (OSError, EOFError, zlib.error) as error:
            raise Bomb(Text("is not a whole gzip file: {error}", error=error)) from error
        self._left -= len(piece)
        if self._left < 0:
            raise Bomb(SWELLS)
        view[: len(piece)] = piece
        return len(piece)
