"""Dataset files: read row by row in constant memory, every broken row told by line, column and reason.

JSONL, a JSON array, or CSV, told apart by their content. `inspect` is what the door asks; `rows` is what a training
child reads. What a row means is in shared/rows.py; nothing here is kept or published.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from shared import strict_json
from shared.errors import Complaint, InvalidDataset
from shared.rows import COLUMN_ROLES, FORMATS, TAG_ROLES, Layout, Row, RowError, detect, read_row

#: Longest row, bytes: longer than any context, short enough that one row never fills the memory.
MAX_ROW_BYTES = 8 * 1024**2
#: Broken rows that are told one by one; the rest is counted.
MAX_ISSUES = 100
#: After so many broken rows the rest is not looked at: two gigabytes of them would take an hour.
MAX_BAD_ROWS = 10_000
TOO_LONG = f"is longer than {MAX_ROW_BYTES} bytes"
CHUNK_BYTES = 1 << 20
_NOT_SPACE = re.compile(r"[^ \t\r\n]")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found in a file that can be trained on."""

    layout: Layout
    num_rows: int
    #: "jsonl", "json" or "csv".
    container: str


@dataclass(frozen=True, kw_only=True)
class _Found:
    """One row as the file has it, or why it cannot be read."""

    #: 1-based line where the row begins.
    line: int
    value: Any = None
    error: RowError | None = None
    #: Nothing behind it can be read.
    last: bool = False


@dataclass(kw_only=True)
class _Tally:
    num_rows: int = 0
    num_bad: int = 0
    issues: list[Complaint] = field(default_factory=list)

    def bad(self, line: int, error: RowError) -> None:
        self.num_bad += 1
        if len(self.issues) < MAX_ISSUES:
            self.issues.append(Complaint(field=error.column, message=error.message, code=error.code, line=line))


def inspect(
    path: Path,
    *,
    formatting: str | None = None,
    columns: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Report:
    """Read the whole file. Raises InvalidDataset with the first MAX_ISSUES broken rows."""
    container = container_of(path)
    layout = _layout(path, container, formatting, columns, tags)
    tally = _Tally()
    for found in _read(path, container):
        tally.num_rows += 1
        try:
            read_row(_object(found), layout)
        except RowError as error:
            tally.bad(found.line, error)
            if tally.num_bad == MAX_BAD_ROWS:
                break
    if tally.num_bad:
        raise _refusal(tally)
    if not tally.num_rows:
        raise _empty()
    return Report(layout=layout, num_rows=tally.num_rows, container=container)


def rows(path: Path, layout: Layout) -> Iterator[Row]:
    """The rows of a file that `inspect` accepted. Raises InvalidDataset at the first broken row."""
    for found in _read(path, container_of(path)):
        try:
            yield read_row(_object(found), layout)
        except RowError as error:
            raise _told(found.line, error) from error


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line and object of each row of a file that is no training data (a batch). Raises InvalidDataset."""
    for found in _read(path, container_of(path)):
        try:
            yield found.line, _object(found)
        except RowError as error:
            raise _told(found.line, error) from error


def _told(line: int, error: RowError) -> InvalidDataset:
    complaint = Complaint(field=error.column, message=error.message, code=error.code, line=line)
    return InvalidDataset(f"line {line}: {error}", complaints=[complaint])


def container_of(path: Path) -> str:
    """By the first character that is no white space: `[` is a JSON array, `{` JSONL, anything else CSV."""
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    if not head:
        raise _empty()
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise _unusable("is UTF-16: save the file as UTF-8", "encoding")
    if head.startswith(b"PAR1") or b"\0" in head[:64]:
        raise _unusable("is a binary file: upload JSONL, JSON or CSV", "unsupported")
    return {b"[": "json", b"{": "jsonl"}.get(head[:1], "csv")


def _layout(
    path: Path,
    container: str,
    formatting: str | None,
    columns: Mapping[str, Any] | None,
    tags: Mapping[str, str] | None,
) -> Layout:
    if formatting is not None and formatting not in FORMATS:
        raise _unusable(f"is {formatting!r}: must be one of {', '.join(FORMATS)}", field="formatting")
    if unknown := sorted(set(columns or {}) - COLUMN_ROLES):
        raise _unusable(f"has {unknown[0]!r}: must be among {', '.join(sorted(COLUMN_ROLES))}", field="columns")
    if unknown := sorted(set(tags or {}) - TAG_ROLES):
        raise _unusable(f"has {unknown[0]!r}: must be among {', '.join(sorted(TAG_ROLES))}", field="tags")
    if formatting is not None or columns:
        return Layout.of(formatting or "alpaca", columns, tags)
    heads = (found.value for found in islice(_read(path, container), MAX_ISSUES) if isinstance(found.value, dict))
    guessed = next((layout for row in heads if (layout := detect(row))), None)
    # Nothing to guess from: the openai reader then says of each row what it lacks.
    return Layout.of(guessed.format, guessed.columns, tags) if guessed else Layout.of("openai")


def _object(found: _Found) -> dict[str, Any]:
    if found.error:
        raise found.error
    if not isinstance(found.value, dict):
        raise RowError("row", f"is {type(found.value).__name__}: must be a JSON object", "invalid_type")
    return found.value


def _read(path: Path, container: str) -> Iterator[_Found]:
    return {"jsonl": _read_jsonl, "json": _read_array, "csv": _read_csv}[container](path)


def _read_jsonl(path: Path) -> Iterator[_Found]:
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), start=1):
            if len(line) > MAX_ROW_BYTES:
                yield _Found(line=number, error=RowError("row", TOO_LONG, "row_too_long"))
            elif text := line.strip():
                yield _parsed(number, text.removeprefix(codecs.BOM_UTF8) if number == 1 else text)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines, of which one that is too long is cut: the rest of it is passed over without being kept."""
    while line := file.readline(MAX_ROW_BYTES + 1):
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
        yield line


def _parsed(number: int, line: bytes) -> _Found:
    try:
        return _Found(line=number, value=_json(line.decode()))
    except UnicodeDecodeError as error:
        message = f"byte {error.start + 1} is not UTF-8: save the file as UTF-8"
        return _Found(line=number, error=RowError("row", message, "encoding"))
    except json.JSONDecodeError as error:
        message = f"is not JSON: {error.msg} at column {error.colno}"
        return _Found(line=number, error=RowError("row", message, "invalid_json"))
    except RowError as error:
        return _Found(line=number, error=error)
    except (strict_json.InvalidJson, RecursionError) as error:
        return _Found(line=number, error=_not_strict(error))


def _json(text: str) -> Any:
    if "\0" in text:
        raise RowError("row", "holds a NUL character", "invalid_character")
    value = strict_json.decoder().decode(text)
    _check_characters(text, value)
    return value


def _check_characters(source: str, value: Any) -> None:
    """What only an escape can bring in: NUL, which no database takes, and half a surrogate pair, which is no text."""
    if "\\u" not in source:
        return
    text = "".join(_texts(value))
    if "\0" in text:
        raise RowError("row", "holds a NUL character", "invalid_character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RowError("row", "holds half of a surrogate pair: no UTF-8 text can", "invalid_character")


def _texts(value: Any) -> Iterator[str]:
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


def _not_strict(error: strict_json.InvalidJson | RecursionError) -> RowError:
    if isinstance(error, RecursionError):
        return RowError("row", "is nested too deep", "invalid_json")
    return RowError(error.field or "row", error.message, "invalid_json")


class _Text:
    """The text of a file in pieces, with the line on which what is left of it begins. What was taken is forgotten with
    the next piece only: cutting it off row by row would copy the whole piece each time."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._num_lines_read = 0
        self.text = ""
        #: Where in `text` what is left begins.
        self.start = 0
        self.line = 1
        self.ended = False

    def more(self, num_bytes: int = CHUNK_BYTES) -> None:
        """Read on. Raises UnicodeDecodeError, `line` being where the broken byte is."""
        piece = self._file.read(num_bytes)
        self.ended = not piece
        try:
            decoded = self._decoder.decode(piece, final=self.ended)
        except UnicodeDecodeError as error:
            self.line = 1 + self._num_lines_read + error.object[: error.start].count(b"\n")
            raise
        self._num_lines_read += piece.count(b"\n")
        self.text, self.start = self.text[self.start :] + decoded, 0

    def take(self, end: int) -> None:
        """Pass over all before `end`."""
        self.line += self.text.count("\n", self.start, end)
        self.start = end

    def skip(self) -> str:
        """Pass over white space; the next character, or "" at the end."""
        while True:
            found = _NOT_SPACE.search(self.text, self.start)
            self.take(found.start() if found else len(self.text))
            if found or self.ended:
                return self.text[self.start : self.start + 1]
            self.more()


def _read_array(path: Path) -> Iterator[_Found]:
    """The elements of one JSON array, each parsed when it is there in whole."""
    with path.open("rb") as file:
        text = _Text(file)
        try:
            yield from _elements(text)
        except UnicodeDecodeError:
            yield _unreadable(text.line, "is not UTF-8: save the file as UTF-8", "encoding")


def _elements(text: _Text) -> Iterator[_Found]:
    text.skip()
    text.take(text.start + 1)
    head = text.skip()
    while head != "]":
        yield (found := _element(text))
        if found.last:
            return
        if (head := text.skip()) == ",":
            text.take(text.start + 1)
            text.skip()
        elif head != "]":
            yield _unreadable(text.line, "must be followed by , or ]")
            return
    text.take(text.start + 1)
    if text.skip():
        yield _unreadable(text.line, "comes after the end of the list: a file is one list")


def _element(text: _Text) -> _Found:
    """The next element; more of the file is read, in doubling steps, while it is incomplete."""
    line, num_bytes = text.line, CHUNK_BYTES
    while True:
        try:
            value, end = strict_json.decoder().raw_decode(text.text, text.start)
            if end < len(text.text) or text.ended:  # else a number may go on
                return _found(text, line, value, end)
            text.more()
        except json.JSONDecodeError as error:
            if len(text.text) - text.start > 2 * MAX_ROW_BYTES:
                return _unreadable(line, TOO_LONG, "row_too_long")
            if text.ended:
                at = line + text.text.count("\n", text.start, error.pos)
                return _unreadable(line, f"is not JSON: {error.msg}" + (f" on line {at}" if at > line else ""))
            text.more(num_bytes)
            num_bytes *= 2
        except (strict_json.InvalidJson, RecursionError) as error:
            # What lies behind cannot be found without parsing it: stop at the first such row.
            return _Found(line=line, error=_not_strict(error), last=True)


def _found(text: _Text, line: int, value: Any, end: int) -> _Found:
    source = text.text[text.start : end]
    text.take(end)
    if len(source) > MAX_ROW_BYTES:
        return _Found(line=line, error=RowError("row", TOO_LONG, "row_too_long"))
    try:
        _check_characters(source, value)
    except RowError as error:
        return _Found(line=line, error=error)
    return _Found(line=line, value=value)


def _unreadable(line: int, message: str, code: str = "invalid_json") -> _Found:
    return _Found(line=line, error=RowError("row", message, code), last=True)


def _read_csv(path: Path) -> Iterator[_Found]:
    csv.field_size_limit(MAX_ROW_BYTES)
    with path.open("rb") as file:
        reader = csv.DictReader(_decoded(file), strict=True)
        line = 1
        try:
            if twice := _twice(reader.fieldnames or ()):
                yield _unreadable(line, f"names two columns {twice!r}", "invalid_csv")
                return
            line = 2
            for row in reader:
                yield _csv_row(line, row)
                line = reader.line_num + 1
        except csv.Error as error:
            yield _unreadable(line, f"is not CSV: {error}", "invalid_csv")
        except RowError as error:
            yield _Found(line=reader.line_num + 1, error=error, last=True)


def _decoded(file: BinaryIO) -> Iterator[str]:
    """Line by line, so that the line of a broken byte is known. Raises RowError."""
    for number, line in enumerate(_lines(file), start=1):
        if len(line) > MAX_ROW_BYTES:
            raise RowError("row", TOO_LONG, "row_too_long")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise RowError("row", "is not UTF-8: save the file as UTF-8", "encoding") from error


def _twice(names: Sequence[str]) -> str | None:
    return next((name for index, name in enumerate(names) if name in names[:index]), None)


def _csv_row(line: int, row: Mapping[Any, Any]) -> _Found:
    if None in row or None in row.values():
        message = "has another number of columns than the header"
        return _Found(line=line, error=RowError("row", message, "invalid_csv"))
    if any("\0" in value for value in row.values()):
        return _Found(line=line, error=RowError("row", "holds a NUL character", "invalid_character"))
    return _Found(line=line, value={name: value or None for name, value in row.items()})


def _refusal(tally: _Tally) -> InvalidDataset:
    first = tally.issues[0]
    told = f"line {first.line}, {first.field}: {first.message}"
    whole = "" if tally.num_bad < MAX_BAD_ROWS else "the first "
    message = f"{tally.num_bad} of {whole}{tally.num_rows} rows are invalid; first: {told}"
    return InvalidDataset(message, field="file", complaints=tally.issues)


def _empty() -> InvalidDataset:
    return _unusable("is empty: there must be at least one row", "empty_file")


def _unusable(message: str, code: str = "invalid_value", field: str = "file") -> InvalidDataset:
    complaint = Complaint(field=field, message=message, code=code, line=1 if field == "file" else None)
    return InvalidDataset(f"{field} {message}", complaints=[complaint])
