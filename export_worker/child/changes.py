"""What an adapter does to named tensors of its model: one class for each kind of change.

The arithmetic is peft's, in its order and its types: the last bit depends on both. It runs over blocks of rows that fit
into the processor's cache, which gives the same bits at twice the speed and needs no second tensor of the same size.
Changes that need a layer of peft's are in layers.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from export_worker.child.renaming import Tensors
from export_worker.child.shards import Entry, read
from shared.errors import TunesmithError

#: Elements of a block: 4 MiB in float32, about a core's share of the second cache.
BLOCK_ELEMENTS = 2**20
#: A block of one row would be another routine of the library with another last bit.
MIN_BLOCK_ROWS = 64


class BadAdapter(TunesmithError):
    """The adapter does not fit its base model."""

    code = "bad_adapter"


class Change(Protocol):
    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it has to see together."""

    @property
    def rows(self) -> int | None:
        """How many rows the tensor has afterwards; None: as many as before."""

    @property
    def copies(self) -> int:
        """How many times the tensors' bytes are in memory meanwhile."""

    @property
    def alone(self) -> bool:
        """Whether it is peft's own arithmetic, which is shared among all cores as peft shares it."""

    def apply(self, tensors: Tensors) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Product:
    """W + scale * B @ A."""

    name: str
    a: Entry  # (rank, in); for an embedding (rank, vocabulary)
    b: Entry  # (out, rank); for an embedding (dimension, rank)
    scale: float
    #: Embeddings keep their factors the other way round.
    embedding: bool = False
    #: Where peft rounds the product before adding it: to embeddings, and to stacked experts.
    rounds: bool = False
    #: The weight is stored as (in, out).
    transposed: bool = False
    rows: int | None = None
    copies: int = 1
    alone: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def apply(self, tensors: Tensors) -> None:
        weight, flipped = tensors[self.name], self.transposed or self.embedding
        a, b = read(self.a).float(), read(self.b).float()
        shape = (b.shape[0], a.shape[1])
        require_shape(self.name, weight, shape[::-1] if flipped else shape)
        for begin, end in blocks(weight):
            change = (b @ a[:, begin:end]).T if flipped else b[begin:end] @ a
            change.mul_(self.scale)
            weight[begin:end].add_(change.to(weight.dtype) if self.rounds else change)


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Another floating-point type, before anything is added: as if the base had been loaded in it."""

    name: str
    dtype: torch.dtype
    rows: None = None
    copies: int = 2
    alone: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def apply(self, tensors: Tensors) -> None:
        tensors[self.name] = tensors[self.name].to(self.dtype)


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """A tensor that was trained in full."""

    name: str
    new: Entry
    #: Whether it may have another number of rows: a vocabulary that grew.
    resizes: bool = False
    copies: int = 3
    alone: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def rows(self) -> int | None:
        return self.new.shape[0] if self.resizes else None

    def apply(self, tensors: Tensors) -> None:
        old, new = tensors[self.name], read(self.new)
        require_shape(self.name, old, (len(old), *new.shape[1:]) if self.resizes else tuple(new.shape))
        tensors[self.name] = new.to(old.dtype)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of single tokens that were trained."""

    name: str
    new: Entry  # (tokens, dimension)
    indices: tuple[int, ...]
    rows: int | None = None
    copies: int = 1
    alone: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def apply(self, tensors: Tensors) -> None:
        weight, new = tensors[self.name], read(self.new)
        require_shape(self.name, new, (len(self.indices), weight.shape[1]))
        if max(self.indices, default=0) >= len(weight):
            text = (
                f"the adapter trained token {max(self.indices)}, the base has {len(weight)}: it was trained on another"
            )
            raise BadAdapter(f"{text} base", field="adapter_name_or_path")
        weight.index_copy_(0, torch.tensor(self.indices), new.to(weight.dtype))


def blocks(weight: torch.Tensor) -> Iterator[tuple[int, int]]:
    """First and last row of blocks of about the same size."""
    rows = max(MIN_BLOCK_ROWS, BLOCK_ELEMENTS // max(1, weight.shape[1]))
    count = max(1, len(weight) // rows)
    for n in range(count):
        yield len(weight) * n // count, len(weight) * (n + 1) // count


def require_shape(name: str, weight: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(weight.shape) != shape:
        raise BadAdapter(
            f"the adapter's change of {name} has shape {shape}, the base's tensor {tuple(weight.shape)}: it was "
            "trained on another base",
            field="adapter_name_or_path",
        )
