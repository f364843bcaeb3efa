"""Remarks on how a body says things: names of before, and fields that are accepted but change nothing here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from shared import schema
from shared.advice.finding import Finding, Origin, info, warning
from shared.tongues import Text
from shared.unsupported import UNSUPPORTED, WITHOUT_EFFECT, Refused


def remarks(spec_type: type, body: Mapping[str, Any]) -> Iterator[Finding]:
    """`body` is the spec's part of a body that was accepted."""
    known = {name for param in schema.params(spec_type) for name in param.names}
    today = {old: param.wire for param in schema.params(spec_type) for old in param.deprecated}
    for name in body:
        if name in today:
            text = Text("{name} is the name of before: it is now called {today}.", name=name, today=today[name])
            yield warning(today[name], Origin.REFERENCE, text, Text("Write {today}.", today=today[name]))
        elif name in WITHOUT_EFFECT and body[name] is not None:
            text = Text("{name} has no effect here: {reason}.", name=name, reason=Text(WITHOUT_EFFECT[name]))
            yield info(name, Origin.REFERENCE, text, "Leave it out.")
        elif name in UNSUPPORTED and not _is_default(UNSUPPORTED[name], body[name]):
            text = Text("{name} changes nothing here: {reason}.", name=name, reason=Text(UNSUPPORTED[name].reason))
            yield info(name, Origin.REFERENCE, text, "Leave it out.")
    yield from _unread(spec_type, known, body)


def _unread(spec_type: type, known: Collection[str], body: Mapping[str, Any]) -> Iterator[Finding]:
    for name in body:
        if name not in known and body[name] is not None and schema.is_unread(spec_type, name, body[name]):
            text = Text("{name} is read by a training: an export has no use for it.", name=name)
            yield info(name, Origin.REFERENCE, text, "Leave it out.")


def _is_default(refused: Refused, value: Any) -> bool:
    """Of the values that ask for nothing the first is LF's default, whose mention says nothing."""
    return value is None or not refused.off or value == refused.off[0]
