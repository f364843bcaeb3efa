"""YAML 1.2 for configuration files: plain values only, read safely, with the line and column of what is wrong.

The scalars are those of the YAML 1.2 core schema: `5e-5` is a number and `no` is text, unlike in PyYAML. Refused:
anchors, aliases and tags (a few lines can grow to gigabytes, or make objects), duplicate keys (the last would win
silently), several documents, and anything too large or too deep to be a configuration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from shared.errors import InvalidRequest, TooLarge
from shared.tongues import Text

MAX_CHARS = 256 * 1024
MAX_DEPTH = 20
MAX_VALUES = 5_000
#: Longest number, digits; Python itself refuses to read longer ones in one go.
MAX_DIGITS = 100

NULL = re.compile(r"~|null|Null|NULL|")
TRUE = re.compile(r"true|True|TRUE")
FALSE = re.compile(r"false|False|FALSE")
INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
NAN = re.compile(r"\.(nan|NaN|NAN)")


class InvalidYaml(InvalidRequest):
    """The YAML cannot be read."""

    code = "invalid_yaml"


def parse(text: str) -> dict[str, Any]:
    """The document's mapping. Raises InvalidYaml with line and column, or TooLarge."""
    if len(text) > MAX_CHARS:
        raise TooLarge("the YAML has {count} characters: at most {most}", field="body", count=len(text), most=MAX_CHARS)
    if "\x00" in text:
        line = text[: text.index("\x00")].count("\n") + 1
        raise InvalidYaml("line {line}: NUL characters are not allowed", field="body", line=line)
    try:
        return _document(_Reader(YAML(typ="safe", pure=True).parse(text)))
    except MarkedYAMLError as error:
        raise InvalidYaml(_sentence(error), field="body") from error
    except YAMLError as error:
        raise InvalidYaml("not valid YAML: {what}", field="body", what=str(error).splitlines()[0]) from error
    except InvalidYaml as error:
        raise InvalidYaml(error.message, field=error.field or "body") from error


class _Reader:
    """The parser's events, one after another, each checked for what is refused everywhere."""

    def __init__(self, events: Iterator[Any]):
        self.events = events
        self.depth = 0
        self.num_values = 0

    def next(self) -> Any:
        event = next(self.events)
        self._refuse(event)
        self.depth += isinstance(event, MappingStartEvent | SequenceStartEvent)
        self.depth -= isinstance(event, MappingEndEvent | SequenceEndEvent)
        self.num_values += 1
        if self.depth > MAX_DEPTH:
            raise InvalidYaml("{place}: nested deeper than {most} levels", place=_place(event), most=MAX_DEPTH)
        if self.num_values > MAX_VALUES:
            raise InvalidYaml("{place}: more than {most} values", place=_place(event), most=MAX_VALUES)
        return event

    def _refuse(self, event: Any) -> None:
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
            raise InvalidYaml(
                "{place}: anchors and aliases (& and *) are not allowed; write the value out", place=_place(event)
            )
        if getattr(event, "tag", None) is not None:
            raise InvalidYaml("{place}: tags ({tag}) are not allowed", place=_place(event), tag=event.tag[:80])


def _document(reader: _Reader) -> dict[str, Any]:
    event = reader.next()
    while not isinstance(event, MappingStartEvent):
        if not isinstance(event, DocumentStartEvent) and type(event).__name__ != "StreamStartEvent":
            raise InvalidYaml("{place}: must be a mapping, one `name: value` on a line", place=_place(event))
        event = reader.next()
    found = _mapping(reader)
    reader.next()
    if type(after := reader.next()).__name__ != "StreamEndEvent":
        raise InvalidYaml("{place}: more than one document", place=_place(after))
    return found


def _value(reader: _Reader, event: Any) -> Any:
    if isinstance(event, MappingStartEvent):
        return _mapping(reader)
    if isinstance(event, SequenceStartEvent):
        return _sequence(reader)
    return _scalar(event)


def _mapping(reader: _Reader) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while not isinstance(event := reader.next(), MappingEndEvent):
        if not isinstance(event, ScalarEvent):
            raise InvalidYaml("{place}: a name must be plain text", place=_place(event))
        if event.value in found:
            raise InvalidYaml(
                "{place}: {value!r} is given twice",
                field=event.value[:200],
                place=_place(event),
                value=event.value[:80],
            )
        found[event.value] = _value(reader, reader.next())
    return found


def _sequence(reader: _Reader) -> list[Any]:
    found = []
    while not isinstance(event := reader.next(), SequenceEndEvent):
        found.append(_value(reader, event))
    return found


def _scalar(event: ScalarEvent) -> Any:
    text: str = event.value
    if event.style is not None:
        return text
    if FLOAT.fullmatch(text) and sum(char.isdigit() for char in text) > MAX_DIGITS:
        raise InvalidYaml("{place}: a number with more than {most} digits", place=_place(event), most=MAX_DIGITS)
    return plain(text)


def plain(text: str) -> Any:
    """What an unquoted word means in the core schema."""
    if NULL.fullmatch(text):
        return None
    if TRUE.fullmatch(text) or FALSE.fullmatch(text):
        return text.lower() == "true"
    if INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
    if FLOAT.fullmatch(text):
        return float(text)
    if INFINITE.fullmatch(text):
        return -math.inf if text.startswith("-") else math.inf
    return math.nan if NAN.fullmatch(text) else text


def _place(event: Any) -> Text:
    mark = event.start_mark
    return Text("line {line}, column {column}", line=mark.line + 1, column=mark.column + 1)


def _sentence(error: MarkedYAMLError) -> Text:
    mark, what = error.problem_mark or error.context_mark, error.problem or error.context
    wrong = what or Text("not valid YAML")
    if mark is None:
        return Text("{what}", what=wrong)
    return Text("line {line}, column {column}: {what}", line=mark.line + 1, column=mark.column + 1, what=wrong)
