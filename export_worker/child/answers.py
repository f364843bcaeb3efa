"""Greedy answers as token ids, whoever gave them, and what two of them say about each other.

Standard library only: the phase that asks vLLM runs in an interpreter of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

#: How many of the likeliest tokens are kept of each step.
NUM_RIVALS = 20


@dataclass(frozen=True, kw_only=True)
class Answer:
    #: Generated tokens, the one that ended it included.
    ids: list[int]
    text: str
    #: Whether a token ended it, and not the limit of its length.
    ended: bool
    #: Per step: how far below the likeliest each of the likeliest tokens was, nats. Empty where nobody counted.
    rivals: list[dict[int, float]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Answer:
        # JSON makes names of the ids.
        rivals = [{int(token): gap for token, gap in step.items()} for step in told["rivals"]]
        return cls(ids=list(told["ids"]), text=told["text"], ended=told["ended"], rivals=rivals)


@dataclass(frozen=True, kw_only=True)
class Parting:
    """Where two answers to the same prompt stop being the same."""

    #: Tokens that both begin with.
    num_common: int
    #: How much less likely the other's next token was to who answered first, nats; infinite: not among the likeliest.
    gap: float


def parting(reference: Answer, other: Answer) -> Parting | None:
    """None: one begins with all of the other."""
    pairs = zip(reference.ids, other.ids, strict=False)
    place = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
    if place is None:
        return None
    known = reference.rivals[place] if place < len(reference.rivals) else {}
    return Parting(num_common=place, gap=known.get(other.ids[place], math.inf))


def ends_elsewhere(reference: Answer, other: Answer) -> str:
    """How one of two answers goes on where the other ends; empty: it does not, or they parted before."""
    if parting(reference, other) is not None or len(reference.ids) == len(other.ids):
        return ""
    if len(other.ids) > len(reference.ids):
        # Else it was only allowed to be longer.
        return f"goes on after {len(reference.ids)} tokens, where it should end" if reference.ended else ""
    return f"ends after {len(other.ids)} tokens, where it should go on" if other.ended else ""


def compared(
    references: Sequence[Answer], others: Sequence[Answer], max_gap: float
) -> tuple[dict[str, Any], list[str]]:
    """Figures of the answers of two models that should answer the same, and what is wrong with them."""
    partings = [parting(a, b) for a, b in zip(references, others, strict=True)]
    elsewhere = [(n, ends_elsewhere(a, b)) for n, (a, b) in enumerate(zip(references, others, strict=True))]
    gaps = [found.gap for found in partings if found is not None]
    found = {
        "num_answers": len(others),
        "num_same": sum(a.ids == b.ids for a, b in zip(references, others, strict=True)),
        "num_ended": sum(answer.ended for answer in others),
        "num_ended_reference": sum(answer.ended for answer in references),
        "largest_gap": max(gaps, default=0.0),
    }
    wrong = [f"answer {n + 1} {how}" for n, how in elsewhere if how]
    for n, parted in enumerate(partings):
        # Written so that a NaN fails: no comparison with it is true.
        if parted is not None and not parted.gap <= max_gap:
            less = f"{parted.gap:.2f} nats less likely (limit {max_gap})"
            wrong.append(f"answer {n + 1} parts after {parted.num_common} tokens with one that was {less}")
    return found, wrong
