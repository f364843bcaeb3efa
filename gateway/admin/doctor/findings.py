"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    #: It works, though not as well as it could, or not all of it.
    WARNING = "warning"
    #: It does not work.
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Finding:
    #: The part that was looked at.
    name: str
    state: State
    told: str
    #: What to do; empty: nothing.
    advice: str = ""


def ok(name: str, told: str) -> Finding:
    return Finding(name=name, state=State.OK, told=told)


def warning(name: str, told: str, advice: str) -> Finding:
    return Finding(name=name, state=State.WARNING, told=told, advice=advice)


def error(name: str, told: str, advice: str) -> Finding:
    return Finding(name=name, state=State.ERROR, told=told, advice=advice)
