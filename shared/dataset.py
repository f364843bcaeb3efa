"""Dataset files: read row by row in constant memory, every broken row told by line, column and reason.

`inspect` is what the door asks; `rows` is what a training child reads. How files are read is in shared/reading, what a
row means in shared/rows.py; nothing here is kept or published.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from shared import reading
from shared.datasetinfo import Description, refused
from shared.errors import Complaint, InvalidDataset
from shared.layout import Layout, detect
from shared.reading import Found
from shared.rows import Row, RowError, read_row
from shared.tongues import Text

#: Broken rows that are told one by one; the rest is counted.
MAX_ISSUES = 100
#: After so many broken rows the rest is not looked at: two gigabytes of them would take an hour.
MAX_BAD_ROWS = 10_000
UNKNOWN = Description()


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found in a file that can be trained on."""

    layout: Layout
    num_rows: int
    #: "jsonl", "json", "csv", "text", "parquet", "arrow" or "arrow-stream".
    container: str
    #: As described: rows that are drawn of it.
    num_samples: int | None = None

    def as_record(self) -> dict[str, Any]:
        """How the file is read, as the ledger keeps it."""
        return {**self.layout.as_record(), "container": self.container, "num_samples": self.num_samples}


@dataclass(kw_only=True)
class _Tally:
    #: What the number beside a broken row counts: "line" or "row".
    counts: str
    num_rows: int = 0
    num_bad: int = 0
    issues: list[Complaint] = field(default_factory=list)

    def bad(self, line: int, error: RowError) -> None:
        self.num_bad += 1
        if len(self.issues) < MAX_ISSUES:
            self.issues.append(Complaint(field=error.column, message=error.message, code=error.code, line=line))


def inspect(path: Path, description: Description = UNKNOWN, *, filename: str = "") -> Report:
    """Read the whole file. Raises InvalidDataset with the first MAX_ISSUES broken rows."""
    container = container_of(path, filename)
    layout = description.layout() or _guessed(path, container, description)
    tally = _Tally(counts="line" if container in reading.READERS else "row")
    for found in reading.read(path, container):
        tally.num_rows += 1
        try:
            _row(found, layout, container)
        except RowError as error:
            tally.bad(found.line, error)
            if tally.num_bad == MAX_BAD_ROWS:
                break
    if tally.num_bad:
        raise _refusal(tally)
    if not tally.num_rows:
        raise _unusable("is empty: there must be at least one row", "empty_file")
    return Report(layout=layout, num_rows=tally.num_rows, container=container, num_samples=description.num_samples)


def rows(path: Path, layout: Layout, container: str | None = None) -> Iterator[Row]:
    """The rows of a file that `inspect` accepted. Raises InvalidDataset at the first broken row."""
    container = container or container_of(path, path.name)
    for found in reading.read(path, container):
        try:
            yield _row(found, layout, container)
        except RowError as error:
            raise _told(found.line, error) from error


def container_of(path: Path, filename: str = "") -> str:
    """Raises InvalidDataset."""
    try:
        return reading.container_of(path, filename)
    except reading.Unreadable as error:
        raise _unusable(error.message, error.code) from error


def _told(line: int, error: RowError) -> InvalidDataset:
    complaint = Complaint(field=error.column, message=error.message, code=error.code, line=line)
    return InvalidDataset(f"line {line}: {error}", complaints=[complaint])


def _guessed(path: Path, container: str, description: Description) -> Layout:
    heads = (found.value for found in islice(reading.read(path, container), MAX_ISSUES))
    guessed = next((layout for row in heads if isinstance(row, dict) and (layout := detect(row))), None)
    if guessed is None:  # nothing to guess from: the openai reader then says of each row what it lacks
        return Layout.of("openai")
    # Without an own description a file that says it ranks must show it.
    if description.ranking not in (None, guessed.ranking):
        text = "is {given}, but the first row holds no chosen and rejected: name the columns"
        if guessed.ranking:
            text = "is {given}, but the first row holds chosen and rejected: name the columns"
        raise refused("ranking", Text(text, given=str(description.ranking).lower()))
    return Layout.of(guessed.format, guessed.columns, description.tags, guessed.ranking)


def _row(found: Found, layout: Layout, container: str) -> Row:
    """Raises RowError."""
    row = _object(found)
    label = layout.columns.get("kto_tag")
    if container == "csv" and label in row:  # the only container that has no true and false of its own
        row = {**row, label: {"true": True, "false": False}.get(str(row[label]).lower(), row[label])}
    return read_row(row, layout)


def _object(found: Found) -> dict[str, Any]:
    if found.error:
        raise found.error
    if not isinstance(found.value, dict):
        raise RowError("row", "is {kind}: must be a JSON object", "invalid_type", kind=type(found.value).__name__)
    return found.value


def _refusal(tally: _Tally) -> InvalidDataset:
    first = tally.issues[0]
    told = f"{tally.counts} {first.line}, {first.field}: {first.message}"
    whole = "" if tally.num_bad < MAX_BAD_ROWS else "the first "
    message = f"{tally.num_bad} of {whole}{tally.num_rows} rows are invalid; first: {told}"
    return InvalidDataset(message, field="file", complaints=tally.issues)


def _unusable(message: str, code: str) -> InvalidDataset:
    complaint = Complaint(field="file", message=message, code=code, line=1)
    return InvalidDataset(f"file {message}", complaints=[complaint])
