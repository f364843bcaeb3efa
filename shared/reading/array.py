"""A JSON array in constant memory: each element is parsed when it is there in whole."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from shared import strict_json
from shared.reading.found import MAX_ROW_BYTES, NOT_UTF8, TOO_LONG, Found, unreadable
from shared.reading.strict import check_characters, not_strict
from shared.toolcalls import RowError

CHUNK_BYTES = 1 << 20
_NOT_SPACE = re.compile(r"[^ \t\r\n]")


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


def read_array(file: BinaryIO) -> Iterator[Found]:
    text = _Text(file)
    try:
        yield from _elements(text)
    except UnicodeDecodeError:
        yield unreadable(text.line, NOT_UTF8, "encoding")


def _elements(text: _Text) -> Iterator[Found]:
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
            yield unreadable(text.line, "must be followed by , or ]")
            return
    text.take(text.start + 1)
    if text.skip():
        yield unreadable(text.line, "comes after the end of the list: a file is one list")


def _element(text: _Text) -> Found:
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
                return unreadable(line, TOO_LONG, "row_too_long")
            if text.ended:
                at = line + text.text.count("\n", text.start, error.pos)
                if at > line:
                    return unreadable(line, "is not JSON: {what} on line {at}", what=error.msg, at=at)
                return unreadable(line, "is not JSON: {what}", what=error.msg)
            text.more(num_bytes)
            num_bytes *= 2
        except (strict_json.InvalidJson, RecursionError) as error:
            # What lies behind cannot be found without parsing it: stop at the first such row.
            return Found(line=line, error=not_strict(error), last=True)


def _found(text: _Text, line: int, value: Any, end: int) -> Found:
    source = text.text[text.start : end]
    text.take(end)
    if len(source) > MAX_ROW_BYTES:
        return Found(line=line, error=RowError("row", TOO_LONG, "row_too_long"))
    try:
        check_characters(source, value)
    except RowError as error:
        return Found(line=line, error=error)
    return Found(line=line, value=value)
