"""JSON of a row: what Python would let through and no tokenizer, database or person could use is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shared import strict_json
from shared.reading.found import NUL
from shared.toolcalls import RowError


def parse(text: str) -> Any:
    if "\0" in text:
        raise RowError("row", NUL, "invalid_character")
    value = strict_json.decoder().decode(text)
    check_characters(text, value)
    return value


def check_characters(source: str, value: Any) -> None:
    """What only an escape can bring in: NUL, which no database takes, and half a surrogate pair, which is no text."""
    if "\\u" not in source:
        return
    text = "".join(texts(value))
    if "\0" in text:
        raise RowError("row", NUL, "invalid_character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RowError("row", "holds half of a surrogate pair: no UTF-8 text can", "invalid_character")


def texts(value: Any) -> Iterator[str]:
    """Every text in the value, keys too. A stack instead of recursion: rows may be nested deep."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            left += [*item, *item.values()]
        elif isinstance(item, list):
            left += item


def not_strict(error: strict_json.InvalidJson | RecursionError) -> RowError:
    if isinstance(error, RecursionError):
        return RowError("row", "is nested too deep", "invalid_json")
    return RowError(error.field or "row", error.message, "invalid_json")
