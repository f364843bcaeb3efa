"""Shares of requests by weight: whose a request is, drawn by lot or always the same for the same caller."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def fraction(*parts: str) -> float:
    """In [0, 1), the same for the same texts, on every machine."""
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def drawn(shares: Sequence[tuple[T, float]], point: float) -> T | None:
    """The one on which `point`, in [0, 1), falls among all with their weights; None: there is nobody."""
    point *= sum(weight for _, weight in shares)
    for one, weight in shares:
        point -= weight
        if point < 0:
            return one
    return shares[-1][0] if shares else None
