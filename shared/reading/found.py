"""What a reader finds in a file: a row with its line, or why there is none. Limits that hold for every container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.tongues import Text
from shared.toolcalls import RowError

#: Longest row, bytes: longer than any context, short enough that one row never fills the memory.
MAX_ROW_BYTES = 8 * 1024**2
TOO_LONG = Text("is longer than {most} bytes", most=MAX_ROW_BYTES)
NUL = Text("holds a NUL character")
NOT_UTF8 = Text("is not UTF-8: save the file as UTF-8")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One row as the file has it, or why it cannot be read."""

    #: 1-based line where the row begins.
    line: int
    value: Any = None
    error: RowError | None = None
    #: Nothing behind it can be read.
    last: bool = False


def unreadable(line: int, template: str, code: str = "invalid_json", /, **values: Any) -> Found:
    """Nothing from this line on can be read."""
    return Found(line=line, error=RowError("row", template, code, **values), last=True)
