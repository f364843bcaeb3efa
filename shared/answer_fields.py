"""Strict Marshmallow fields of what a request may say of its answer: tokens by number, tools, and what must come out.

Whether a schema is one is asked in gateway/answer_schemas.py: only the gateway has the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields

from shared.fields import MAX_ITEMS, Message, StrictInteger, StrictObject, checked_text, refuse, shown

#: Ids of tokens are below the size of a vocabulary; the largest have some 260,000.
MAX_TOKEN_ID = 2**31 - 1
#: Log probabilities that are told of one token: vLLM's own bound.
MAX_LOGPROBS = 20
MAX_TOOLS = 128
MAX_BIAS = 100.0
#: What a name of a function or schema may be at OpenAI.
MAX_NAME_CHARACTERS = 64
#: What vLLM is given to keep to, one of them.
CONSTRAINTS: Mapping[str, type] = {
    "json": dict, "regex": str, "choice": list, "grammar": str, "json_object": bool, "structural_tag": str,
}  # fmt: skip
#: How it keeps to it.
OPTIONS = ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern")
FORMATS = ("text", "json_object", "json_schema", "structural_tag")
TOOL_CHOICES = ("none", "auto", "required")


class TokenIds(fields.List[Any]):
    """A list of token ids."""

    def __init__(self, **kwargs: Any):
        super().__init__(StrictInteger(), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list) or not all(is_token_id(item) for item in value):
            raise refuse("is {value}: must be a list of token ids", "invalid_type", value=shown(value))
        if len(value) > MAX_ITEMS:
            raise refuse("has {count} entries: at most {most}", count=len(value), most=MAX_ITEMS)
        return value


class TokenBias(StrictObject):
    """Token ids, as texts, with what is added to their scores."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        given = super()._deserialize(value, attr, data, **kwargs)
        if len(given) > MAX_ITEMS:
            raise refuse("has {count} entries: at most {most}", count=len(given), most=MAX_ITEMS)
        for token, bias in given.items():
            if not (token.isascii() and token.isdigit() and int(token[:20]) <= MAX_TOKEN_ID):
                raise refuse("has the key {key}: must be the id of a token", key=shown(token))
            is_number = isinstance(bias, int | float) and not isinstance(bias, bool)
            if not is_number or not -MAX_BIAS <= bias <= MAX_BIAS:
                raise refuse("has {value} for token {key}: must be from -100 to 100", value=shown(bias), key=token)
        return given


class LogProbs(StrictInteger):
    """OpenAI's switch of conversations, or its number of texts."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, bool):
            return value
        if not isinstance(value, int) or not 0 <= value <= MAX_LOGPROBS:
            text = "is {value}: must be true, false, or a number from 0 to {most}"
            raise refuse(text, "out_of_range", value=shown(value), most=MAX_LOGPROBS)
        return value


class Tools(fields.List[Any]):
    """Functions that the model may call, in OpenAI's form."""

    def __init__(self, **kwargs: Any):
        super().__init__(StrictObject(), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
            raise refuse("is {value}: must be a list of tools", "invalid_type", value=shown(value))
        if len(value) > MAX_TOOLS:
            raise refuse("has {count} entries: at most {most}", count=len(value), most=MAX_TOOLS)
        for at, tool in enumerate(value):
            if (wrong := _tool_complaint(tool, at)) is not None:
                raise ValidationError([wrong])  # type: ignore[list-item]
        return value


class ToolChoice(fields.Raw):
    """A word, or the function that must be called."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        named = value.get("function") if isinstance(value, dict) else None
        is_named = isinstance(named, dict) and isinstance(named.get("name"), str)
        if value not in TOOL_CHOICES and not is_named:
            text, allowed = "is {value}: must be one of {allowed}, or {form}", ", ".join(TOOL_CHOICES)
            form = '{"type": "function", "function": {"name": ...}}'
            raise refuse(text, "invalid_choice", value=shown(value), allowed=allowed, form=form)
        return value


def is_token_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKEN_ID


def response_format_complaint(value: dict[str, Any]) -> Message | None:
    """What is wrong with the outside of it; the schema within is looked at by the gateway."""
    kind = value.get("type")
    if kind not in FORMATS:
        text = "has the type {value}: must be one of {allowed}"
        return Message(text, "invalid_choice", value=shown(kind), allowed=", ".join(FORMATS))
    if kind != "json_schema":
        return None
    told = value.get("json_schema")
    if not isinstance(told, dict) or not isinstance(told.get("name"), str) or not isinstance(told.get("schema"), dict):
        return Message("has no schema: json_schema must be {form}", "required", form='{"name": ..., "schema": {...}}')
    return None


def structured_outputs_complaint(value: dict[str, Any]) -> Message | None:
    given = {name: value[name] for name in CONSTRAINTS if value.get(name) is not None}
    unknown = sorted(value.keys() - CONSTRAINTS.keys() - set(OPTIONS))
    if unknown:
        text = "has {name}: must be of {allowed}"
        return Message(text, "unknown_field", name=shown(unknown[0]), allowed=", ".join([*CONSTRAINTS, *OPTIONS]))
    if len(given) != 1:
        return Message("must have one of {allowed}, and has {count}", allowed=", ".join(CONSTRAINTS), count=len(given))
    [(name, said)] = given.items()
    if not isinstance(said, CONSTRAINTS[name]) and not (name == "json" and isinstance(said, str)):
        return Message("has {value} for {name}: wrong type", "invalid_type", value=shown(said), name=name)
    if isinstance(said, list) and not (said and all(isinstance(text, str) and text for text in said)):
        return Message("has {value} for choice: must be a list of texts", "invalid_type", value=shown(said))
    if isinstance(said, str):
        checked_text(said)
    return None


def template_kwargs_complaint(value: dict[str, Any]) -> Message | None:
    """A template is a program that the server would run, and what it may return is the server's to say."""
    wrong = sorted(value.keys() & {"chat_template", "tokenize", "return_dict", "return_tensors", "tools"})
    return Message("has {name}: not a value of the template", "not_allowed", name=wrong[0]) if wrong else None


def _tool_complaint(tool: dict[str, Any], at: int) -> Message | None:
    function = tool.get("function")
    if tool.get("type", "function") != "function" or not isinstance(function, dict):
        form = '{"type": "function", "function": {"name": ..., "parameters": {...}}}'
        return Message("has {value} at {at}: each must be {form}", "invalid_type", value=shown(tool), at=at, form=form)
    name = function.get("name")
    if not isinstance(name, str) or not _is_function_name(name):
        text = "has the name {name} at {at}: 1 to 64 letters, digits, - or _"
        return Message(text, name=shown(name), at=at)
    if not isinstance(function.get("parameters") or {}, dict):
        return Message("has parameters at {at} that are no object", "invalid_type", at=at)
    return None


def _is_function_name(name: str) -> bool:
    # A dot is what servers of tools write between their own name and a tool's.
    allowed = all(char.isascii() and (char.isalnum() or char in "-_.") for char in name)
    return allowed and 0 < len(name) <= MAX_NAME_CHARACTERS
