"""The Chinese of what the product says, or None where there is none: looked up in the files of zh/, read once.

parameters.json has a parameter's wire name (or `export.template` where kinds of jobs mean different things by it) with
`doc`, `advice` and `picture`; the other files have English templates as `Text` has them, or constant sentences, with
their Chinese and the same `{placeholders}`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from shared.tongues.text import Text

log = logging.getLogger(__name__)

PLACEHOLDER = re.compile(r"\{[^{}]*\}")
#: Files of templates: findings of the advice, complaints and other errors, why LF's arguments are refused, the page,
#: events of jobs and how they fail.
TEMPLATES = ("findings", "errors", "refused", "reference", "events")


def sentence(english: str) -> str | None:
    template = english.template if isinstance(english, Text) else english
    found = _templates().get(template) or (template if not _has_words(template) else None)
    if found is None or not isinstance(english, Text) or not english.values:
        return found
    try:
        return found.format(**{name: _either(value) for name, value in english.values.items()})
    except (KeyError, IndexError, ValueError):  # a Chinese template that asks for what the English does not give
        return None


def beside(message: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The data of an event, with the Chinese of its message under `zh` where there is one and none yet."""
    told = sentence(message) if message and "zh" not in data else None
    return {**data, "zh": {"message": told}} if told else dict(data)


def parameter(kind: str, wire: str) -> Mapping[str, str]:
    """`doc`, `advice` and `picture` of a parameter of this kind of job, as far as there are any."""
    known = _parameters()
    return known.get(f"{kind}.{wire}") or known.get(wire) or {}


def read(name: str) -> dict[str, Any]:
    """One file of zh/. Raises OSError, ValueError."""
    return dict(json.loads((files(__package__) / "zh" / f"{name}.json").read_text(encoding="utf-8")))


def _has_words(template: str) -> bool:
    return any(char.isalpha() for char in PLACEHOLDER.sub("", template))


def _either(value: Any) -> Any:
    """A part that is a sentence itself in Chinese, else as it is."""
    return (sentence(value) or str(value)) if isinstance(value, Text) else value


def _known(name: str) -> dict[str, Any]:
    """Nothing where the file lacks or is broken: an answer in English alone is better than none."""
    try:
        return read(name)
    except (OSError, ValueError):
        log.exception("The Chinese in %s.json cannot be read: it is left out", name)
        return {}


@cache
def _templates() -> Mapping[str, str]:
    return {english: found for name in TEMPLATES for english, found in _known(name).items()}


@cache
def _parameters() -> Mapping[str, Mapping[str, str]]:
    return _known("parameters")
