"""Special tokens within the data as ordinary text: a seam is put into each, and text is encoded piece by piece.

The chat template's own special tokens have none, so they stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from shared.rows import Row

#: No character: Unicode reserves it for uses like this one.
SEAM = "\ufdd0"
#: Of a message what its template compares with names of its own.
NAMES = ("role", "name")


def put(row: Row, tokens: Sequence[str]) -> Row:
    return replace(
        row,
        messages=_sewn(row.messages, tokens),
        rejected=_sewn(row.rejected, tokens),
        text=_sewn(row.text, tokens),
        tools=_sewn(row.tools, tokens),
    )


def apart(encode: Callable[[str], list[int]]) -> Callable[[str], list[int]]:
    """The same for text without seams."""
    return lambda text: [token for piece in text.split(SEAM) if piece for token in encode(piece)]


def _sewn(value: Any, tokens: Sequence[str]) -> Any:
    if isinstance(value, str):
        for token in tokens:
            value = value.replace(token, f"{token[0]}{SEAM}{token[1:]}")
        return value
    if isinstance(value, list):
        return [_sewn(item, tokens) for item in value]
    if isinstance(value, dict):
        return {name: item if name in NAMES else _sewn(item, tokens) for name, item in value.items()}
    return value
