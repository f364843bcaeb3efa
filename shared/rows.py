"""One row of training data, whatever its format, as chat messages: the checks at the door and the reader of the child.

Four kinds of rows: a conversation that ends with an answer, one with a better and a worse answer, one whose answer has
a label, and plain text. How rows are laid out is in shared/layout.py. Nothing here opens a file: shared/dataset.py
does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from shared.layout import INSIDE_INPUT, MEDIA, Layout
from shared.tongues import Text
from shared.toolcalls import RowError, tool_calls, tool_list, written_calls

__all__ = ["Row", "RowError", "read_row"]

#: Longest conversation of one row, messages.
MAX_MESSAGES = 10_000
#: Who may speak after whom: an answer always follows what was asked or what a tool said.
FOLLOWERS = {"user": ("assistant",), "tool": ("tool", "assistant"), "assistant": ("user", "tool")}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One conversation: alternating user (or tool) and assistant messages that end with an assistant's."""

    #: [{"role": "system" | "user" | "assistant" | "tool", "content": str, ...}]; an assistant's message may have
    #: `tool_calls`: [{"type": "function", "function": {"name": str, "arguments": {...}}}].
    messages: list[dict[str, Any]]
    #: Tool descriptions, as the chat template takes them: [{"type": "function", "function": {...}}].
    tools: list[Any] | None = None
    #: Of a preference pair: the worse answer, a message like the last one above, which is the better.
    rejected: dict[str, Any] | None = None
    #: Whether the last answer is a desirable one (KTO); None: nobody said.
    label: bool | None = None
    #: Plain text to go on from; there are no messages then.
    text: str | None = None


def read_row(row: Mapping[str, Any], layout: Layout) -> Row:
    """Raises RowError."""
    for role in MEDIA:
        if role in layout.columns and row.get(layout.columns[role]):
            raise RowError(layout.columns[role], "holds {role}: only text is trained on", "unsupported", role=role)
    return _READERS[layout.format](_with_input(row, layout), layout)


def _with_input(row: Mapping[str, Any], layout: Layout) -> Mapping[str, Any]:
    """The row with what lies inside its column `input` beside the others, where the layout looks there."""
    inside = [name for name in layout.columns.values() if name.startswith(INSIDE_INPUT)]
    if not inside:
        return row
    given = row.get("input")
    if not isinstance(given, dict):
        raise RowError("input", "must be an object with messages", "missing" if given is None else "invalid_type")
    return {**row, **{name: given.get(name.removeprefix(INSIDE_INPUT)) for name in inside}}


def _alpaca(row: Mapping[str, Any], layout: Layout) -> Row:
    columns, kind = layout.columns, layout.kind
    question = _question(row, columns)
    if kind == "text":
        return Row(messages=[], text=question)
    messages = _system(row, columns)
    for turn in _history(row, columns.get("history")):
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    messages.append({"role": "user", "content": question})
    made = Row(messages=messages, tools=tool_list(row, columns.get("tools")))
    if kind == "pair":
        return _pair(row, layout, made)
    answer = _text(row, columns["response"], required=True)
    messages.append({"role": "assistant", "content": answer})
    return _labelled(row, columns["kto_tag"], made) if kind == "labelled" else made


def _conversation(row: Mapping[str, Any], layout: Layout) -> Row:
    column = layout.columns.get("messages", "messages")
    given = row.get(column)
    if not isinstance(given, list) or not given:
        raise RowError(column, "must be a list of messages", "missing" if given is None else "invalid_type")
    if len(given) > MAX_MESSAGES:
        raise RowError(column, "has {count} messages: at most {most}", count=len(given), most=MAX_MESSAGES)
    messages = [_message(layout)(message, f"{column}[{n}]", layout.tags) for n, message in enumerate(given)]
    system = _system(row, layout.columns)
    if messages[0]["role"] == "system":
        system, messages = messages[:1], messages[1:]
    made = Row(messages=[*system, *messages], tools=tool_list(row, layout.columns.get("tools")))
    if layout.kind == "pair":
        _take_turns(messages, column, last=("user", "tool"))
        return _pair(row, layout, made)
    _take_turns(messages, column, last=("assistant",))
    return _labelled(row, layout.columns["kto_tag"], made) if layout.kind == "labelled" else made


_READERS: dict[str, Callable[[Mapping[str, Any], Layout], Row]] = {
    "alpaca": _alpaca,
    "sharegpt": _conversation,
    "openai": _conversation,
}


def _pair(row: Mapping[str, Any], layout: Layout, asked: Row) -> Row:
    chosen, rejected = (_answer(row, layout, role) for role in ("chosen", "rejected"))
    if chosen == rejected:
        raise RowError(layout.columns["rejected"], "is the same as the chosen answer: nothing is preferred")
    return replace(asked, messages=[*asked.messages, chosen], rejected=rejected)


def _answer(row: Mapping[str, Any], layout: Layout, role: str) -> dict[str, Any]:
    """An answer of a pair: text, a message, or a list of one message."""
    column = layout.columns[role]
    value = row.get(column)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        if value is not None and not isinstance(value, str):
            raise RowError(column, "must be text, or one message with a role and a content", "invalid_type")
        return {"role": "assistant", "content": _text(row, column, required=True)}
    message = _object_message(layout, value, column)
    if message["role"] != "assistant":
        raise RowError(column, "is a message of {role}: must be the assistant's", "invalid_role", role=message["role"])
    return message


def _object_message(layout: Layout, value: dict[str, Any], column: str) -> dict[str, Any]:
    if layout.format != "alpaca":
        return _message(layout)(value, column, layout.tags)
    return _message(other := Layout.of("openai" if "role" in value else "sharegpt"))(value, column, other.tags)


def _labelled(row: Mapping[str, Any], column: str, made: Row) -> Row:
    label = row.get(column)
    if not isinstance(label, bool):
        code = "missing" if label is None else "invalid_type"
        raise RowError(column, "is {label!r}: must be true (desirable) or false", code, label=str(label)[:40])
    return replace(made, label=label)


def _message(layout: Layout) -> Callable[[Any, str, Mapping[str, str]], dict[str, Any]]:
    return _openai_message if layout.format == "openai" else _tagged_message


def _tagged_message(message: Any, place: str, tags: Mapping[str, str]) -> dict[str, Any]:
    role, content = _role(message, place, tags), message.get(tags["content_tag"])
    at = f"{place}.{tags['content_tag']}"
    if not isinstance(content, str):
        raise RowError(at, "must be text", "missing" if content is None else "invalid_type")
    if role in ("assistant", "function") and not content.strip():
        raise RowError(at, "is empty: there is nothing to learn", "empty_content")
    if role == "function":
        return {"role": "assistant", **written_calls(content)}
    return {"role": role, "content": content}


def _openai_message(message: Any, place: str, tags: Mapping[str, str]) -> dict[str, Any]:
    role, content = _role(message, place, tags), message.get(tags["content_tag"])
    at = f"{place}.{tags['content_tag']}"
    calls = tool_calls(message.get("tool_calls"), f"{place}.tool_calls")
    if isinstance(content, list):
        content = _joined(content, at)
    if content is not None and not isinstance(content, str):
        raise RowError(at, "must be text", "invalid_type")
    if role in ("assistant", "function") and not (content or "").strip() and not calls:
        raise RowError(at, "assistant message has no content", "empty_content")
    if role not in ("assistant", "function") and content is None:
        raise RowError(at, "must be text", "missing")
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise RowError(f"{place}.weight", "is {weight!r}: must be 0 or 1", weight=weight)
    made: dict[str, Any] = {"role": role, "content": content or ""}
    if role == "function":
        made = {"role": "assistant", **({"content": content or ""} if calls else written_calls(content or ""))}
    kept = {name: message[name] for name in ("tool_call_id", "name") if role == "tool" and message.get(name)}
    return made | kept | ({"tool_calls": calls} if calls else {}) | ({"weight": 0} if weight == 0 else {})


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
        at = f"{place}.{tags['role_tag']}"
        raise RowError(at, "is {value!r}: must be one of {allowed}", "invalid_role", value=given, allowed=allowed)
    return "tool" if roles[given] == "observation" else roles[given]


def _take_turns(messages: list[dict[str, Any]], column: str, *, last: tuple[str, ...]) -> None:
    """User (or tools, of which several may answer) and assistant take turns, and one of `last` ends them."""
    if not messages or messages[-1]["role"] not in last:
        if last == ("assistant",):
            raise RowError(column, "must end with an assistant message: that is what is learned", "no_assistant")
        raise RowError(column, "must end before the answer: chosen and rejected are the answers", "invalid_order")
    if messages[0]["role"] == "assistant":
        raise RowError(column, "must begin with a user message", "invalid_order")
    for index, (before, after) in enumerate(pairwise(messages), start=1):
        if after["role"] == "system":
            raise RowError(f"{column}[{index}]", "a system message must be the first", "invalid_order")
        if after["role"] not in FOLLOWERS[before["role"]]:
            raise RowError(f"{column}[{index}]", _out_of_turn(before, after), "invalid_order")


def _out_of_turn(before: Mapping[str, Any], after: Mapping[str, Any]) -> Text:
    if before["role"] == after["role"]:
        return Text("follows another message of {role}", role=after["role"])
    return Text("follows a message of {role}: an assistant message must come between", role=before["role"])


def _question(row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    parts = [_text(row, columns["prompt"], present=True)]
    parts += [_text(row, columns["query"])] if "query" in columns else []
    question = "\n".join(part for part in parts if part)
    if not question.strip():
        raise RowError(columns["prompt"], "is empty", "empty_content")
    return question


def _text(row: Mapping[str, Any], column: str, *, present: bool = False, required: bool = False) -> str:
    """`present`: the column must be there; `required`: and hold more than white space."""
    value = row.get(column)
    if value is None and not present and not required:
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
