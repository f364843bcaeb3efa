"""Rows to samples, in this process or in several: the same samples in the same order.

A process gets its rows through a pipe and is never more than one bundle ahead, so that memory stays constant whatever
the number of rows. What a sample is, is the encoder's.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection

from shared import cores
from shared.conversation import Encoder, Sample
from shared.errors import ChildFailed, TunesmithError
from shared.rows import Row

#: Rows that a process gets at once.
BUNDLE = 64
#: So few rows are done before other processes would have started.
NUM_ALONE = 128


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What became of one row: samples, or why there are none."""

    samples: list[Sample]
    problem: str = ""


def encoded(rows: Iterator[Row], encoder: Encoder, kind: str, num_workers: int) -> Iterator[Encoded]:
    count = min(num_workers, cores.available())
    alone = NUM_ALONE if count > 1 else None
    yield from (one(encoder, row, kind) for row in islice(rows, alone))
    ahead = list(islice(rows, 1)) if alone else []
    if ahead:
        yield from _shared(_bundles([*ahead], rows), encoder, kind, count)


def one(encoder: Encoder, row: Row, kind: str) -> Encoded:
    try:
        return Encoded(samples=encoder.samples(row, kind))
    except TunesmithError as error:
        return Encoded(samples=[], problem=error.message)


def _bundles(first: list[Row], rows: Iterator[Row]) -> Iterator[list[Row]]:
    yield [*first, *islice(rows, BUNDLE - len(first))]
    while bundle := list(islice(rows, BUNDLE)):
        yield bundle


def _shared(bundles: Iterable[list[Row]], encoder: Encoder, kind: str, count: int) -> Iterator[Encoded]:
    """Bundles go round: each process has one, and its answer is taken before it gets the next."""
    waiting: list[Connection] = []
    with _processes(encoder, kind, count) as idle:
        for bundle in bundles:
            if not idle:
                pipe = waiting.pop(0)
                yield from _answer(pipe)
                idle.append(pipe)
            pipe = idle.pop(0)
            pipe.send(bundle)
            waiting.append(pipe)
        for pipe in waiting:
            yield from _answer(pipe)


def _answer(pipe: Connection) -> list[Encoded]:
    try:
        answer: list[Encoded] = pipe.recv()
    except EOFError as error:
        raise ChildFailed("a process that tokenizes has ended: see the log of the preparation") from error
    return answer


@contextmanager
def _processes(encoder: Encoder, kind: str, count: int) -> Iterator[list[Connection]]:
    """Forked, so that tokenizer and template need no copy; ended on every way out."""
    context = multiprocessing.get_context("fork")
    made, pipes = [], []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(encoder, kind, theirs), daemon=True)
            process.start()
            # Closed before the next is forked: else that one would hold it open, and no end would be seen.
            theirs.close()
            made.append(process)
            pipes.append(ours)
        yield pipes
    finally:
        for process in made:
            process.terminate()
        for process in made:
            process.join()


def _serve(encoder: Encoder, kind: str, pipe: Connection) -> None:
    while True:
        pipe.send([one(encoder, row, kind) for row in pipe.recv()])
