"""Several datasets as one stream of rows: one after another, interleaved, drawn again, or shuffled through a buffer.

The order is that of `datasets.interleave_datasets` for the same seed, which a test compares, but made row by row:
nothing is held but the next row of each dataset. Where rows come from is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, cycle, islice
from typing import Generic, TypeVar

import numpy as np

from shared.errors import InvalidDataset

T = TypeVar("T")
#: Opens a dataset at its first row.
Source = Callable[[], Iterator[T]]
CONCAT, UNDER, ONCE = "concat", "interleave_under", "interleave_once"
#: As numpy is asked for by `datasets`: another block would be another order.
BLOCK = 1000


def mixed(sources: Sequence[Source[T]], strategy: str, shares: Sequence[float] | None, seed: int) -> Iterator[T]:
    """Raises InvalidDataset where an interleaved dataset has no row."""
    if strategy == CONCAT or len(sources) == 1:
        return chain.from_iterable(source() for source in sources)
    return _interleaved([_Reader(source) for source in sources], strategy, shares, seed)


def _interleaved(
    readers: Sequence[_Reader[T]], strategy: str, shares: Sequence[float] | None, seed: int
) -> Iterator[T]:
    """Drawn at random it ends with the row that ends the mixture; in turn, with the end of that round."""
    ends = any if strategy == UNDER else all
    for place, ends_round in _turns(len(readers), shares, seed):
        reader = readers[place]
        if not (strategy == ONCE and reader.was_read):
            yield reader.take()
        if ends_round and ends(reader.was_read for reader in readers):
            return


def _turns(count: int, shares: Sequence[float] | None, seed: int) -> Iterator[tuple[int, bool]]:
    """Whose turn it is, and whether a round ends with it."""
    if shares is None:
        yield from cycle((place, place == count - 1) for place in range(count))
        return
    chance = np.random.default_rng(seed)
    while True:
        yield from ((int(place), True) for place in chance.choice(count, size=BLOCK, p=shares))


class _Reader(Generic[T]):
    """A dataset that begins again after its end, and knows that it was read when its last row is taken."""

    def __init__(self, source: Source[T]):
        self._source = source
        self._rows = source()
        self._next: list[T] = list(islice(self._rows, 1))
        self.was_read = False
        if not self._next:
            raise InvalidDataset("a dataset that is to be interleaved has no row", field="dataset")

    def take(self) -> T:
        if not self._next:
            self._rows = self._source()
            self._next = list(islice(self._rows, 1))
        row = self._next[0]
        self._next = list(islice(self._rows, 1))
        self.was_read = self.was_read or not self._next
        return row


def shuffled(rows: Iterator[T], buffer_size: int, seed: int) -> Iterator[T]:
    """Each row changes places with a random one of the buffer."""
    chance = np.random.default_rng(seed)
    buffer: list[T] = []
    for row in rows:
        if len(buffer) < buffer_size:
            buffer.append(row)
            continue
        place = int(chance.integers(buffer_size))
        yield buffer[place]
        buffer[place] = row
    yield from (buffer[place] for place in chance.permutation(len(buffer)))


def resampled(source: Source[T], num_samples: int, max_rows: int | None, seed: int) -> Iterator[T]:
    """So many rows, chosen at random, some twice where there are fewer; in the order of the dataset, which is read
    twice."""
    times = draws(sum(1 for _ in source()), num_samples, max_rows, seed)
    for row, count in zip(source(), times, strict=True):
        for _ in range(count):
            yield row


def draws(num_rows: int, num_samples: int, max_rows: int | None, seed: int) -> list[int]:
    """How often each row is taken: every row once before any comes again, as LLaMA Factory draws them."""
    chance = np.random.default_rng(seed)
    chosen = chance.permutation(num_rows)[:num_samples]
    again = chance.integers(num_rows, size=num_samples - len(chosen))
    counts: list[int] = np.bincount(np.concatenate([chosen, again])[:max_rows], minlength=num_rows).tolist()
    return counts
