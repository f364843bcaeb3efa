"""One row of training data, whatever its format, as chat messages: the checks at the door and the reader of the child.

Formats and columns are LF's (`dataset_info.json`): alpaca, sharegpt and openai. Where `columns` are given, those left
out do not exist; where none are given, LF's defaults hold. Nothing here opens a file: shared/dataset.py does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

#: Column of the row that each role of a format reads when `columns` is not given.
DEFAULT_COLUMNS: dict[str, dict[str, str]] = {
    "alpaca": {
        "prompt": "instruction",
        "query": "input",
        "response": "output",
        "history": "history",
        "system": "system",
    },
    "sharegpt": {"messages": "conversations", "system": "system", "tools": "tools"},
    "openai": {"messages": "messages", "system": "system", "tools": "tools"},
}
COLUMN_ROLES = frozenset(
    {"prompt", "query", "response", "history", "messages", "system", "tools", "chosen", "rejected", "kto_tag"}
    | {"images", "videos", "audios"}
)
DEFAULT_TAGS: dict[str, dict[str, str]] = {
    "sharegpt": {
        "role_tag": "from",
        "content_tag": "value",
        "user_tag": "human",
        "assistant_tag": "gpt",
        "observation_tag": "observation",
        "function_tag": "function_call",
        "system_tag": "system",
    },
    "openai": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "observation_tag": "tool",
        "function_tag": "function",
        "system_tag": "system",
    },
}
TAG_ROLES = frozenset(DEFAULT_TAGS["sharegpt"])
FORMATS = tuple(DEFAULT_COLUMNS)
#: Longest conversation of one row, messages.
MAX_MESSAGES = 10_000


class RowError(ValueError):
    """The row cannot be trained on."""

    def __init__(self, column: str, message: str, code: str = "invalid_row"):
        self.column, self.message, self.code = column, message, code
        super().__init__(f"{column}: {message}")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the rows of one dataset are read."""

    #: alpaca, sharegpt or openai.
    format: str
    #: Role (prompt, response, messages, ...) -> column of the row.
    columns: Mapping[str, str] = field(default_factory=dict)
    #: Role of a message -> what the data calls it.
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, format: str, columns: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None) -> Layout:
        """LF's rule: what is given counts alone, what is not given at all takes the defaults."""
        given = {role: name for role, name in (columns or {}).items() if isinstance(name, str)}
        return cls(
            format=format,
            columns=given or DEFAULT_COLUMNS[format],
            tags=DEFAULT_TAGS.get(format, {}) | dict(tags or {}),
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One conversation: alternating user (or tool) and assistant messages that end with an assistant's."""

    #: [{"role": "system" | "user" | "assistant" | "tool", "content": str, ...}]
    messages: list[dict[str, Any]]
    #: Tool descriptions, as the chat template takes them.
    tools: list[Any] | None = None
    #: Of a preference pair: the other answer to the same conversation; the last message above is the better one.
    rejected: str | None = None
    #: Whether the last answer is a desirable one (KTO); None: nobody said.
    label: bool | None = None
    #: Plain text to go on from; there are no messages then.
    text: str | None = None


def read_row(row: Mapping[str, Any], layout: Layout) -> Row:
    """Raises RowError."""
    return _READERS[layout.format](row, layout)


def detect(row: Mapping[str, Any]) -> Layout | None:
    """The layout that a first row suggests."""
    if isinstance(row.get("messages"), list):
        roles = [message for message in row["messages"] if isinstance(message, dict)]
        return (
            Layout.of("openai") if not roles or "role" in roles[0] else Layout.of("sharegpt", {"messages": "messages"})
        )
    if isinstance(row.get("conversations"), list):
        first = next((message for message in row["conversations"] if isinstance(message, dict)), {})
        return Layout.of("openai", {"messages": "conversations"}) if "role" in first else Layout.of("sharegpt")
    if "instruction" in row or "output" in row:
        return Layout.of("alpaca")
    if "prompt" in row:
        response = next((name for name in ("completion", "response") if name in row), "completion")
        return Layout.of("alpaca", {"prompt": "prompt", "response": response})
    return None


def _alpaca(row: Mapping[str, Any], layout: Layout) -> Row:
    columns = layout.columns
    prompt = _text(row, columns.get("prompt", "instruction"), required=True)
    query = _text(row, columns["query"]) if "query" in columns else ""
    response = _text(row, columns.get("response", "output"), required=True)
    messages = _system(row, columns)
    for turn in _history(row, columns.get("history")):
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    user = "\n".join(part for part in (prompt, query) if part)
    return Row(messages=[*messages, {"role": "user", "content": user}, {"role": "assistant", "content": response}])


def _conversation(row: Mapping[str, Any], layout: Layout) -> Row:
    column = layout.columns.get("messages", "messages")
    given = row.get(column)
    if not isinstance(given, list) or not given:
        raise RowError(column, "must be a list of messages", "missing" if given is None else "invalid_type")
    if len(given) > MAX_MESSAGES:
        raise RowError(column, f"has {len(given)} messages: at most {MAX_MESSAGES}")
    read = _openai_message if layout.format == "openai" else _tagged_message
    messages = [read(message, f"{column}[{index}]", layout.tags) for index, message in enumerate(given)]
    system = _system(row, layout.columns)
    if messages[0]["role"] == "system":
        system, messages = messages[:1], messages[1:]
    _alternate(messages, column)
    return Row(messages=[*system, *messages], tools=_tools(row, layout.columns.get("tools")))


_READERS: dict[str, Callable[[Mapping[str, Any], Layout], Row]] = {
    "alpaca": _alpaca,
    "sharegpt": _conversation,
    "openai": _conversation,
}


def _tagged_message(message: Any, place: str, tags: Mapping[str, str]) -> dict[str, Any]:
    role, content = _role(message, place, tags), message.get(tags["content_tag"])
    if not isinstance(content, str):
        raise RowError(
            f"{place}.{tags['content_tag']}", "must be text", "missing" if content is None else "invalid_type"
        )
    if role == "function":
        return {"role": "assistant", "content": content}
    if role == "assistant" and not content.strip():
        raise RowError(f"{place}.{tags['content_tag']}", "is empty: there is nothing to learn", "empty_content")
    return {"role": role, "content": content}


def _openai_message(message: Any, place: str, tags: Mapping[str, str]) -> dict[str, Any]:
    role, content = _role(message, place, tags), message.get(tags["content_tag"])
    calls = message.get("tool_calls")
    if isinstance(content, list):
        content = _joined(content, f"{place}.{tags['content_tag']}")
    if content is not None and not isinstance(content, str):
        raise RowError(f"{place}.{tags['content_tag']}", "must be text", "invalid_type")
    if role == "assistant" and not (content or "").strip() and not calls:
        raise RowError(f"{place}.{tags['content_tag']}", "assistant message has no content", "empty_content")
    if role != "assistant" and content is None:
        raise RowError(f"{place}.{tags['content_tag']}", "must be text", "missing")
    weight = message.get("weight", 1)
    if weight not in (0, 1):
        raise RowError(f"{place}.weight", f"is {weight!r}: must be 0 or 1")
    made: dict[str, Any] = {"role": "assistant" if role == "function" else role, "content": content or ""}
    return made | ({"tool_calls": calls} if calls else {}) | ({"weight": 0} if weight == 0 else {})


def _joined(parts: list[Any], place: str) -> str:
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if any(text is None for text in texts):
        raise RowError(place, "has a part that is not text: images, audio and video are not trained on", "unsupported")
    return "".join(str(text) for text in texts)


def _role(message: Any, place: str, tags: Mapping[str, str]) -> str:
    if not isinstance(message, dict):
        raise RowError(place, "must be an object with a role and a content", "invalid_type")
    given = message.get(tags["role_tag"])
    roles = {tags[f"{role}_tag"]: role for role in ("user", "assistant", "observation", "function", "system")}
    roles |= {"developer": "system"} if tags["role_tag"] == "role" else {}
    if not isinstance(given, str) or given not in roles:
        allowed = ", ".join(roles)
        raise RowError(f"{place}.{tags['role_tag']}", f"is {given!r}: must be one of {allowed}", "invalid_role")
    return "tool" if roles[given] == "observation" else roles[given]


def _alternate(messages: list[dict[str, Any]], column: str) -> None:
    """User (or tool) and assistant take turns; tools may answer several calls in a row. Ends with the assistant."""
    if not messages or messages[-1]["role"] != "assistant":
        raise RowError(column, "must end with an assistant message: that is what is learned", "no_assistant")
    if messages[0]["role"] == "assistant":
        raise RowError(column, "must begin with a user message", "invalid_order")
    for index, (before, after) in enumerate(pairwise(messages), start=1):
        if after["role"] == "system":
            raise RowError(f"{column}[{index}]", "a system message must be the first", "invalid_order")
        if before["role"] == after["role"] and after["role"] != "tool":
            raise RowError(f"{column}[{index}]", f"follows another message of {after['role']}", "invalid_order")


def _text(row: Mapping[str, Any], column: str, required: bool = False) -> str:
    value = row.get(column)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise RowError(
            column, "is missing" if value is None else "must be text", "missing" if value is None else "invalid_type"
        )
    if required and not value.strip():
        raise RowError(column, "is empty", "empty_content")
    return value


def _system(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[dict[str, Any]]:
    text = _text(row, columns["system"]) if "system" in columns else ""
    return [{"role": "system", "content": text}] if text else []


def _history(row: Mapping[str, Any], column: str | None) -> list[list[str]]:
    history = row.get(column) if column else None
    if history is None or history == "":
        return []
    whole = isinstance(history, list) and all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn) for turn in history
    )
    if not whole:
        raise RowError(str(column), "must be a list of [user text, assistant text]", "invalid_type")
    return list(history)


def _tools(row: Mapping[str, Any], column: str | None) -> list[Any] | None:
    tools = row.get(column) if column else None
    if tools is None or tools == "":
        return None
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
    except (ValueError, RecursionError) as error:
        raise RowError(str(column), f"is not JSON: {str(error)[:200]}", "invalid_json") from error
    if not isinstance(tools, list):
        raise RowError(str(column), "must be a list of tools", "invalid_type")
    return tools or None
