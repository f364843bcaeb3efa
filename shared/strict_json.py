"""JSON as it is meant: no key twice, no NaN, nothing nested without end. What Python would let through is refused."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from shared.errors import InvalidRequest
from shared.tongues import Text

#: Longest number, digits: 64 bits have 19, and Python's own limit of 4300 is an error of another kind.
MAX_DIGITS = 1000


class InvalidJson(InvalidRequest):
    """The text is not valid JSON."""

    code = "invalid_json"


def loads(text: str, *, what: str = "body") -> Any:
    """Raises InvalidJson, with line and column or the key that is there twice."""
    try:
        return decoder().decode(text)
    except json.JSONDecodeError as error:
        raise InvalidJson(
            "The {what} is not JSON: {wrong} at line {line}, column {column}",
            field=what, what=Text(what), wrong=error.msg, line=error.lineno, column=error.colno,
        ) from error  # fmt: skip
    except InvalidJson as error:
        raise InvalidJson(
            "The {what}: {wrong}", field=error.field or what, what=Text(what), wrong=error.message
        ) from error
    except RecursionError as error:
        raise InvalidJson("The {what} is nested too deep", field=what, what=Text(what)) from error


@cache
def decoder() -> json.JSONDecoder:
    """One for all: making one takes as long as reading a small request."""
    return json.JSONDecoder(
        object_pairs_hook=_unique,
        parse_constant=_no_constant,
        parse_int=_whole,
        parse_float=_broken,
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InvalidJson("{twice!r} is given twice in one object", field=twice[:200], twice=twice)
    return made


def _whole(digits: str) -> int:
    return int(_short(digits))


def _broken(digits: str) -> float:
    return float(_short(digits))


def _short(digits: str) -> str:
    if len(digits) > MAX_DIGITS:
        raise InvalidJson("holds a number of {count} digits: at most {most}", count=len(digits), most=MAX_DIGITS)
    return digits


def _no_constant(name: str) -> Any:
    raise InvalidJson("{name} is not a JSON number", name=name)
