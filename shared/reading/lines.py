"""Files that are read line by line: JSONL, CSV and plain text."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from shared import strict_json
from shared.reading.found import MAX_ROW_BYTES, NOT_UTF8, NUL, TOO_LONG, Found, unreadable
from shared.reading.strict import not_strict, parse
from shared.toolcalls import RowError


def read_jsonl(file: BinaryIO) -> Iterator[Found]:
    for number, line in enumerate(_lines(file), start=1):
        if len(line) > MAX_ROW_BYTES:
            yield Found(line=number, error=RowError("row", TOO_LONG, "row_too_long"))
        elif text := line.strip():
            yield _parsed(number, text.removeprefix(codecs.BOM_UTF8) if number == 1 else text)


def read_text(file: BinaryIO) -> Iterator[Found]:
    """Every line that is not empty is a row with one column `text`, as LF reads a .txt file."""
    for number, line in enumerate(_lines(file), start=1):
        if len(line) > MAX_ROW_BYTES:
            yield Found(line=number, error=RowError("row", TOO_LONG, "row_too_long"))
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield Found(line=number, error=_not_utf8(error))
            continue
        if "\0" in text:
            yield Found(line=number, error=RowError("row", NUL, "invalid_character"))
        elif text.strip():
            yield Found(line=number, value={"text": text})


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines, of which one that is too long is cut: the rest of it is passed over without being kept."""
    while line := file.readline(MAX_ROW_BYTES + 1):
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
        yield line


def _parsed(number: int, line: bytes) -> Found:
    try:
        return Found(line=number, value=parse(line.decode()))
    except UnicodeDecodeError as error:
        return Found(line=number, error=_not_utf8(error))
    except json.JSONDecodeError as error:
        wrong = RowError("row", "is not JSON: {what} at column {at}", "invalid_json", what=error.msg, at=error.colno)
        return Found(line=number, error=wrong)
    except RowError as error:
        return Found(line=number, error=error)
    except (strict_json.InvalidJson, RecursionError) as error:
        return Found(line=number, error=not_strict(error))


def _not_utf8(error: UnicodeDecodeError) -> RowError:
    return RowError("row", "byte {at} {wrong}", "encoding", at=error.start + 1, wrong=NOT_UTF8)


def read_csv(file: BinaryIO) -> Iterator[Found]:
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.DictReader(_decoded(file), strict=True)
    line = 1
    try:
        if twice := _twice(reader.fieldnames or ()):
            yield unreadable(line, "names two columns {twice!r}", "invalid_csv", twice=twice)
            return
        line = 2
        for row in reader:
            yield _csv_row(line, row)
            line = reader.line_num + 1
    except csv.Error as error:
        yield unreadable(line, "is not CSV: {error}", "invalid_csv", error=error)
    except RowError as error:
        yield Found(line=reader.line_num + 1, error=error, last=True)


def _decoded(file: BinaryIO) -> Iterator[str]:
    """Line by line, so that the line of a broken byte is known. Raises RowError."""
    for number, line in enumerate(_lines(file), start=1):
        if len(line) > MAX_ROW_BYTES:
            raise RowError("row", TOO_LONG, "row_too_long")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise RowError("row", NOT_UTF8, "encoding") from error


def _twice(names: Sequence[str]) -> str | None:
    return next((name for index, name in enumerate(names) if name in names[:index]), None)


def _csv_row(line: int, row: Mapping[Any, Any]) -> Found:
    if None in row or None in row.values():
        message = "has another number of columns than the header"
        return Found(line=line, error=RowError("row", message, "invalid_csv"))
    if any("\0" in value for value in row.values()):
        return Found(line=line, error=RowError("row", NUL, "invalid_character"))
    return Found(line=line, value={name: value or None for name, value in row.items()})
