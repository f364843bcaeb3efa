"""Parquet and Arrow (IPC) files, a few rows at a time. Rows have no lines here: their numbers are told instead.

The readers are arro3's, which is light enough for every environment. A broken file may cost memory and time beyond its
size before it is known to be broken: uploads are looked at in a process of their own (shared/inspection.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.reading import strict
from shared.reading.found import MAX_ROW_BYTES, NUL, TOO_LONG, Found, unreadable
from shared.tongues import Text
from shared.toolcalls import RowError

#: Rows of Parquet that are decoded at once: a few, because one may be megabytes long.
BATCH_ROWS = 64
#: Decoded bytes for each byte of the file, beyond the first FREE_BYTES: dictionaries and compression come to 50.
MAX_RATIO = 100
FREE_BYTES = 64 * 1024**2
BROKEN = {"parquet": "invalid_parquet", "arrow": "invalid_arrow", "arrow-stream": "invalid_arrow"}


class _Swollen(Exception):
    """Rows unpack to more than any dataset would."""


def read_arrow(path: Path, container: str) -> Iterator[Found]:
    number, left = 0, FREE_BYTES + MAX_RATIO * path.stat().st_size
    try:
        for batch in _batches(path, container):
            if batch.nbytes > left:
                raise _Swollen
            for row in batch.to_struct_array():
                number += 1
                found, size = _found(number, row)
                if (left := left - size) < 0:
                    raise _Swollen
                yield found
    except _Swollen:
        message = Text("swells to more than {most} times its size: upload it as JSONL", most=MAX_RATIO)
        yield unreadable(number + 1, message, BROKEN[container])
    except BaseException as error:
        # What Rust gives up on comes as a PanicException, which is no Exception.
        if isinstance(error, GeneratorExit | KeyboardInterrupt | MemoryError):
            raise
        yield unreadable(number + 1, "cannot be read: {error}", BROKEN[container], error=_reason(error))


def _batches(path: Path, container: str) -> Any:
    from arro3 import io

    if container == "parquet":
        return io.read_parquet(path, batch_size=BATCH_ROWS)
    return io.read_ipc(path) if container == "arrow" else io.read_ipc_stream(path)


def _found(number: int, row: Any) -> tuple[Found, int]:
    """One row, and how long its texts are, characters."""
    try:
        value = row.as_py()
    except ValueError as error:
        return Found(
            line=number, error=RowError("row", "cannot be read: {error}", "invalid_type", error=_reason(error))
        ), 0
    texts = list(strict.texts(value))
    size = sum(map(len, texts))
    if size > MAX_ROW_BYTES:
        return Found(line=number, error=RowError("row", TOO_LONG, "row_too_long")), size
    if any("\0" in text for text in texts):
        return Found(line=number, error=RowError("row", NUL, "invalid_character")), size
    return Found(line=number, value=value), size


def _reason(error: BaseException) -> str:
    """One short line of what the library says; its panics repeat whole pages of the file."""
    text = " ".join(str(error).split())
    said = text.partition("`Err` value: ")[2] or text
    return said if len(said) <= 120 else f"{said[:117]}..."
