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
        raise TooLarge(f"the YAML has {len(text)} characters: at most {MAX_CHARS}", field="body")
    if "\x00" in text:
        line = text[: text.index("\x00")].count("\n") + 1
        raise InvalidYaml(f"line {line}: NUL characters are not allowed", field="body")
    try:
        return _document(_Reader(YAML(typ="safe", pure=True).parse(text)))
    except MarkedYAMLError as error:
        raise InvalidYaml(_sentence(error), field="body") from error
    except YAMLError as error:
        raise InvalidYaml(f"not valid YAML: {str(error).splitlines()[0]}", field="body") from error
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
            raise InvalidYaml(f"{_place(event)}: nested deeper than {MAX_DEPTH} levels")
        if self.num_values > MAX_VALUES:
            raise InvalidYaml(f"{_place(event)}: more than {MAX_VALUES} values")
        return event

    def _refuse(self, event: Any) -> None:
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
            raise InvalidYaml(f"{_place(event)}: anchors and aliases (& and *) are not allowed; write the value out")
        if getattr(event, "tag", None) is not None:
            raise InvalidYaml(f"{_place(event)}: tags ({event.tag[:80]}) are not allowed")


def _document(reader: _Reader) -> dict[str, Any]:
    event = reader.next()
    while not isinstance(event, MappingStartEvent):
        if not isinstance(event, DocumentStartEvent) and type(event).__name__ != "StreamStartEvent":
            raise InvalidYaml(f"{_place(event)}: must be a mapping, one `name: value` on a line")
        event = reader.next()
    found = _mapping(reader)
    reader.next()
    if type(after := reader.next()).__name__ != "StreamEndEvent":
        raise InvalidYaml(f"{_place(after)}: more than one document")
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
            raise InvalidYaml(f"{_place(event)}: a name must be plain text")
        if event.value in found:
            raise InvalidYaml(f"{_place(event)}: {event.value[:80]!r} is given twice", field=event.value[:200])
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
        raise InvalidYaml(f"{_place(event)}: a number with more than {MAX_DIGITS} digits")
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


def _place(event: Any) -> str:
    mark = event.start_mark
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _sentence(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{place}{error.problem or error.context or 'not valid YAML'}"
