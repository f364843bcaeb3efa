"""Read ahead, change, write behind: three threads, and never more in memory than a few tensors.

Reading and writing spend their time in the kernel, changing in the arithmetic library: all three release Python's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

#: Tensors read, changed and written at one time; a larger one is alone.
HELD_BYTES = 192 * 2**20


class Piece(Protocol):
    """A part of the work."""

    @property
    def num_bytes(self) -> int:
        """Of the output, for progress."""

    @property
    def held_bytes(self) -> int:
        """In memory meanwhile."""

    def read(self) -> None: ...

    def change(self) -> None: ...

    def write(self) -> None: ...


def run(pieces: Iterable[Piece], done: Callable[[int], None]) -> None:
    """Every piece, in order; `done` hears of the bytes of each. What it raises ends the run after the running steps."""
    waiting, reading, writing = deque(pieces), deque[tuple[Piece, Future[None]]](), deque[tuple[Piece, Future[None]]]()
    held = 0
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        try:
            while waiting or reading or writing:
                while waiting and (not held or held + waiting[0].held_bytes <= HELD_BYTES) and len(reading) < 3:
                    piece = waiting.popleft()
                    held += piece.held_bytes
                    reading.append((piece, reader.submit(piece.read)))
                idle = not reading
                if reading:
                    piece, future = reading.popleft()
                    future.result()
                    piece.change()
                    writing.append((piece, writer.submit(piece.write)))
                while writing and (idle or writing[0][1].done() or len(writing) > 3):
                    idle = False
                    piece, future = writing.popleft()
                    future.result()
                    held -= piece.held_bytes
                    done(piece.num_bytes)
        except BaseException:
            reader.shutdown(cancel_futures=True)
            writer.shutdown(cancel_futures=True)
            raise
