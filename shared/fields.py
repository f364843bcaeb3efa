"""Strict Marshmallow fields: JSON types are meant as they are written, and every message says what would be right.

A string "4" is not an integer and `true` is not 1. Only what LLaMA Factory's own files need is taken two ways: a list
of names may be one string with commas. What the fields do not do: rules between fields (see `shared/rules.py`).
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from marshmallow import ValidationError, fields, validate

from shared.nearest import did_you_mean
from shared.tongues import Text

#: Longest string that any field takes, characters; longer ones are data, not parameters.
MAX_TEXT_CHARS = 65_536
#: Longest list of names, and of the characters in it.
MAX_ITEMS = 1_024
MAX_LIST_CHARS = 65_536


class Message(Text):
    """A complaint's text that also carries the complaint's code through Marshmallow's error store."""

    code: str

    def __new__(cls, template: str, code: str = "invalid_value", /, **values: Any) -> Self:
        message = super().__new__(cls, template, **values)
        message.code = code
        return message


def refuse(template: str, code: str = "invalid_value", /, **values: Any) -> ValidationError:
    return ValidationError([Message(template, code, **values)])  # type: ignore[list-item]


def shown(value: Any) -> str:
    """The value as a message may repeat it: short, in quotes when it is text."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


class StrictInteger(fields.Integer):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise refuse("is {value}: must be a whole number", "invalid_type", value=shown(value))
        if abs(value) > 2**63 - 1:
            raise refuse("is too large: must fit in 64 bits")
        return value


class StrictFloat(fields.Float):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise refuse("is {value}: must be a number", "invalid_type", value=shown(value))
        if isinstance(value, int) and abs(value) > 2**63 - 1:
            raise refuse("is too large: must fit in 64 bits")
        if not math.isfinite(value):
            raise refuse("is {value}: must be finite", value=value)
        return float(value)


class StepsOrShare(StrictFloat):
    """A whole number of steps, or a share of all steps below 1, as in transformers 5."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        number = super()._deserialize(value, attr, data, **kwargs)
        if number >= 1 and not isinstance(value, int):
            raise refuse("is {value}: must be a whole number of steps, or a share below 1", value=value)
        return value if isinstance(value, int) else number


class StrictBoolean(fields.Boolean):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise refuse("is {value}: must be true or false", "invalid_type", value=shown(value))
        return value


class TokenCount(StrictBoolean):
    """Whether and how tokens are counted: transformers 5 says it in words, LF's files as a switch."""

    WORDS: Mapping[str, bool] = {"all": True, "non_padding": True, "no": False}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if isinstance(value, str) and value not in self.WORDS:
            raise refuse(
                "is {value}: must be true, false, {allowed}",
                "invalid_choice",
                value=shown(value),
                allowed=" or ".join(self.WORDS),
            )
        return super()._deserialize(self.WORDS[value] if isinstance(value, str) else value, attr, data, **kwargs)


class StrictString(fields.String):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise refuse("is {value}: must be text", "invalid_type", value=shown(value))
        return checked_text(value)


class CheckpointName(StrictString):
    """A checkpoint's name; LF's switch is `true` for the newest, `false` for none."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, bool):
            return "true" if value else None
        return super()._deserialize(value, attr, data, **kwargs)


class SecretString(StrictString):
    """Text that no message repeats."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or not value:
            raise refuse("must be text", "invalid_type")
        return checked_text(value)


class Names(fields.List[Any]):
    """A list of names, or LF's one string with commas; empty names are dropped."""

    def __init__(self, **kwargs: Any):
        super().__init__(StrictString(), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise refuse(
                "is {value}: must be a list of names, or names with commas between", "invalid_type", value=shown(value)
            )
        if len(value) > MAX_ITEMS:
            raise refuse("has {count} entries: at most {most}", count=len(value), most=MAX_ITEMS)
        if (count := sum(map(len, value))) > MAX_LIST_CHARS:
            raise refuse("has {count} characters: at most {most}", count=count, most=MAX_LIST_CHARS)
        return [checked_text(item).strip() for item in value if item.strip()]


class Numbers(fields.List[Any]):
    """A list of numbers, or LF's one string with commas."""

    def __init__(self, **kwargs: Any):
        super().__init__(StrictFloat(), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = [float(item) for item in value.split(",") if item.strip()]
        if not isinstance(value, list):
            raise refuse(
                "is {value}: must be a list of numbers, or with commas between", "invalid_type", value=shown(value)
            )
        if len(value) > MAX_ITEMS:
            raise refuse("has {count} entries: at most {most}", count=len(value), most=MAX_ITEMS)
        return [StrictFloat().deserialize(item) for item in value]


class Texts(fields.List[Any]):
    """A list of texts, or one text: commas belong to the text (stop strings)."""

    def __init__(self, **kwargs: Any):
        super().__init__(StrictString(), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise refuse("is {value}: must be a text or a list of texts", "invalid_type", value=shown(value))
        return [checked_text(item) for item in value]


class StrictObject(fields.Dict):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise refuse("is {value}: must be an object", "invalid_type", value=shown(value))
        return value


class ObjectOrJson(StrictObject):
    """An object, or its JSON as text, as transformers takes it."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if isinstance(value, str):
            try:
                value = json.loads(checked_text(value))
            except (ValueError, RecursionError):
                raise refuse(
                    "is {value}: must be an object, or JSON of one", "invalid_type", value=shown(value)
                ) from None
        return super()._deserialize(value, attr, data, **kwargs)


class Above(validate.Range):
    """A range whose message names the value and the bound."""

    def __call__(self, value: Any) -> Any:
        low, high = self.min, self.max
        if low is not None and (value < low or (value == low and not self.min_inclusive)):
            wanted = "is {value}: must be at least {low}" if self.min_inclusive else "is {value}: must be above {low}"
            raise refuse(wanted, "out_of_range", value=value, low=low)
        if high is not None and (value > high or (value == high and not self.max_inclusive)):
            wanted = "is {value}: must be at most {high}" if self.max_inclusive else "is {value}: must be below {high}"
            raise refuse(wanted, "out_of_range", value=value, high=high)
        return value


class OneOf(validate.OneOf):
    """A closed choice whose message names what is allowed and the nearest, or is that of `check`."""

    def __init__(self, choices: Sequence[Any], check: Callable[[Any], Message | None] | None):
        super().__init__(choices)
        self.check = check

    def __call__(self, value: Any) -> Any:
        if self.check is not None:
            return Check(self.check)(value)
        if value not in self.choices:
            allowed = ", ".join(str(choice) for choice in self.choices)
            near = did_you_mean(str(value), [str(choice) for choice in self.choices])
            raise refuse(
                "is {value}: must be one of {allowed}{near}",
                "invalid_choice",
                value=shown(value),
                allowed=allowed,
                near=near,
            )
        return value


class Check:
    """A function of the value that returns a complaint, as a Marshmallow validator."""

    def __init__(self, check: Callable[[Any], Message | None]):
        self.check = check

    def __call__(self, value: Any) -> Any:
        if (message := self.check(value)) is not None:
            raise ValidationError([message])  # type: ignore[list-item]
        return value


def checked_text(value: str) -> str:
    if len(value) > MAX_TEXT_CHARS:
        raise refuse("has {count} characters: at most {most}", count=len(value), most=MAX_TEXT_CHARS)
    if "\x00" in value:
        raise refuse("holds a NUL character: not allowed")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise refuse("holds half of a surrogate pair: not valid text")
    return value


def label_complaint(value: str) -> Message | None:
    """What is wrong with a name that is only shown and kept: it must be one printable line."""
    if len(value) > 512:
        return Message("has {count} characters: at most {most}", count=len(value), most=512)
    whole = value.strip() and value.isprintable()
    return None if whole else Message("is {value}: must be one line of text", value=shown(value))


def validators(
    *,
    low: Any,
    high: Any,
    choices: Sequence[Any],
    above: bool,
    below: bool,
    check: Callable[[Any], Message | None] | None,
) -> list[Any]:
    """The Marshmallow validators of a parameter; apispec reads minimum, maximum and enum from them."""
    found: list[Any] = []
    if low is not None or high is not None:
        found.append(Above(min=low, max=high, min_inclusive=not above, max_inclusive=not below))
    if choices:
        found.append(OneOf(list(choices), check))
    elif check is not None:
        found.append(Check(check))
    return found
