"""Pieces of a merge done side by side, one core each, with no more in memory than a few tensors at any time.

A piece is read, changed and written by one thread: while one waits for the disk another computes. Splitting every small
product among all cores instead would spend a third of the time waiting for each other at its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol

import torch

#: Tensors in memory at one time; a larger one is alone.
HELD_BYTES = 192 * 2**20


class Piece(Protocol):
    """A part of the work."""

    @property
    def num_bytes(self) -> int:
        """Of the base, for progress."""

    @property
    def held_bytes(self) -> int:
        """In memory meanwhile."""

    @property
    def alone(self) -> bool:
        """Whether it wants all cores: how a decomposition is shared among them decides about its last bits."""

    def run(self) -> None: ...


def run(pieces: Iterable[Piece], done: Callable[[int], None]) -> None:
    """Every piece, begun in order; `done` hears of the bytes of each. What it raises ends the run after what runs."""
    num_cores = torch.get_num_threads()
    waiting = deque(pieces)
    while waiting:
        if waiting[0].alone:
            piece = waiting.popleft()
            piece.run()
            done(piece.num_bytes)
            continue
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(num_cores) as workers:
                _beside(waiting, workers, num_cores, done)
        finally:
            torch.set_num_threads(num_cores)


def _beside(waiting: deque[Piece], workers: ThreadPoolExecutor, most: int, done: Callable[[int], None]) -> None:
    """All that wait, up to the next that wants to be alone."""
    running: dict[Future[None], Piece] = {}
    held = 0
    while running or (waiting and not waiting[0].alone):
        while waiting and not waiting[0].alone and len(running) < most:
            if running and held + waiting[0].held_bytes > HELD_BYTES:
                break
            piece = waiting.popleft()
            held += piece.held_bytes
            running[workers.submit(piece.run)] = piece
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            piece = running.pop(future)
            held -= piece.held_bytes
            future.result()
            done(piece.num_bytes)
