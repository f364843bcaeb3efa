"""Dataset files as rows: told apart by their content, read in constant memory, each row with its line.

JSONL, a JSON array, CSV and plain text, packed with gzip or not; Parquet and Arrow. A reader yields `Found` after
`Found`; what a row means is not known here.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from shared.reading.array import read_array
from shared.reading.arrow import read_arrow
from shared.reading.found import MAX_ROW_BYTES, Found, unreadable
from shared.reading.lines import read_csv, read_jsonl, read_text
from shared.reading.unpack import Bomb, check, is_packed, unpacked
from shared.tongues import Text

__all__ = ["BINARY", "MAX_ROW_BYTES", "NAMES", "SUFFIXES", "Found", "Unreadable", "container_of", "read"]

READERS: Mapping[str, Callable[[BinaryIO], Iterator[Found]]] = {
    "jsonl": read_jsonl,
    "json": read_array,
    "csv": read_csv,
    "text": read_text,
}
#: Parsed by a library in native code, and only from whole files.
BINARY: Mapping[bytes, str] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow-stream"}
#: Ends of file names that are read from a folder.
SUFFIXES = (".json", ".jsonl", ".csv", ".txt", ".parquet", ".arrow")
NAMES = "JSONL, JSON, CSV, Parquet, Arrow or text"
#: First bytes of files that hold no rows for us, and what they are.
FOREIGN: Mapping[bytes, str] = {
    b"PARE": "an encrypted Parquet file",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "packed with bzip2",
    b"\xfd7zXZ": "packed with xz",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"\x89HDF": "HDF5",
    b"SQLite format 3": "a SQLite database",
    b"%PDF": "a PDF",
}


class Unreadable(ValueError):
    """The file as a whole is none that is read."""

    def __init__(self, template: str, code: str = "unsupported", /, **values: Any):
        self.message, self.code = Text(template, **values), code
        super().__init__(self.message)


def container_of(path: Path, filename: str = "") -> str:
    """By the first character that is no white space: `[` is a JSON array, `{` JSONL, anything else CSV (or text, where
    the name says so); binary files by their magic bytes. Raises Unreadable."""
    head = _head(path)
    if not head.strip():
        raise Unreadable("is empty: there must be at least one row", "empty_file")
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise Unreadable("is UTF-16: save the file as UTF-8", "encoding")
    if foreign := next((what for magic, what in FOREIGN.items() if head.startswith(magic)), None):
        raise Unreadable(
            "is {foreign}: upload {names}; text formats may be packed with gzip", foreign=Text(foreign), names=NAMES
        )
    if binary := next((what for magic, what in BINARY.items() if head.startswith(magic)), None):
        return _binary(path, binary)
    if b"\0" in head[:64]:
        raise Unreadable("is a binary file: upload {names}", names=NAMES)
    if PurePath(filename.removesuffix(".gz")).suffix.lower() == ".txt":
        return "text"
    return {b"[": "json", b"{": "jsonl"}.get(head.lstrip()[:1], "csv")


def read(path: Path, container: str) -> Iterator[Found]:
    if container in BINARY.values():
        yield from read_arrow(path, container)
        return
    with unpacked(path) as file:
        try:
            yield from READERS[container](file)
        except Bomb as error:
            yield unreadable(1, error.args[0], "invalid_gzip")


def _binary(path: Path, container: str) -> str:
    if is_packed(path):
        raise Unreadable("is packed with gzip twice over: Parquet and Arrow pack their own columns, upload it unpacked")
    if container == "parquet":
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            if file.read() == b"PARE":
                raise Unreadable("is an encrypted Parquet file: upload it unencrypted")
    return container


def _head(path: Path) -> bytes:
    with unpacked(path) as file:
        try:
            if is_packed(path):
                check(path)
            return file.read(4096).removeprefix(codecs.BOM_UTF8)
        except Bomb as error:
            raise Unreadable(error.args[0], "invalid_gzip") from error
