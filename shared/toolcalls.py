"""Tools and calls of them as datasets write them, brought to the one form that chat templates take.

Calls become `{"type": "function", "function": {"name": ..., "arguments": {...}}}`, tools
`{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}`. How a template writes them
is the template's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shared.tongues import Text

#: Ends a thought that precedes the calls in one text.
END_OF_THOUGHT = "</think>"


class RowError(ValueError):
    """The row cannot be trained on."""

    def __init__(self, column: str, template: str, code: str = "invalid_row", /, **values: Any):
        self.column, self.message, self.code = column, Text(template, **values), code
        super().__init__(f"{column}: {self.message}")


def written_calls(content: str) -> dict[str, Any]:
    """Content and calls of a message whose text is a call or a list of calls as JSON, perhaps after a thought. A text
    that is none stays the content: it may be written in the model's own way."""
    _, end, rest = content.rpartition(END_OF_THOUGHT)
    try:
        value = json.loads(rest)
    except (ValueError, RecursionError):
        return {"content": content}
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(_is_call(call) for call in calls):
        return {"content": content}
    made = [_call(str(call["name"]), call.get("arguments", call.get("parameters", {}))) for call in calls]
    # The empty line after a thought is part of how templates write it.
    kept = content[: len(content) - len(rest.lstrip())] if end else ""
    return {"content": kept, "tool_calls": made}


def tool_calls(given: Any, place: str) -> list[dict[str, Any]] | None:
    """The `tool_calls` of a message in OpenAI's form. Raises RowError."""
    if given is None or given == []:
        return None
    if not isinstance(given, list):
        raise RowError(place, "must be a list of calls", "invalid_type")
    made = []
    for index, call in enumerate(given):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError(f"{place}[{index}]", "must be an object with function.name", "invalid_type")
        kept = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        made.append(kept | _call(function["name"], function.get("arguments", {})))
    return made


def tool_list(row: Mapping[str, Any], column: str | None) -> list[dict[str, Any]] | None:
    """The tools of a row: a list, or one as JSON text. Raises RowError."""
    tools = row.get(column) if column else None
    if tools is None or tools == "":
        return None
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
    except (ValueError, RecursionError) as error:
        raise RowError(str(column), "is not JSON: {error}", "invalid_json", error=str(error)[:200]) from error
    if not isinstance(tools, list):
        raise RowError(str(column), "must be a list of tools", "invalid_type")
    return [_tool(tool, f"{column}[{index}]") for index, tool in enumerate(tools)] or None


def _tool(tool: Any, place: str) -> dict[str, Any]:
    described = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(described, dict) or not isinstance(described.get("name"), str):
        raise RowError(place, "must be an object with a name", "invalid_type")
    return tool if "function" in tool else {"type": "function", "function": described}


def _is_call(call: Any) -> bool:
    named = isinstance(call, dict) and isinstance(call.get("name"), str)
    return named and ("arguments" in call or "parameters" in call)


def _call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": _arguments(arguments)}}


def _arguments(given: Any) -> Any:
    """OpenAI writes them as JSON text, templates take an object."""
    if not isinstance(given, str):
        return given
    try:
        value = json.loads(given) if given.strip() else {}
    except (ValueError, RecursionError):
        return given
    return value if isinstance(value, dict) else given
