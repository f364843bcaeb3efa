"""What is checked of the messages of a conversation, wherever they come in: with a request, in a line of a batch, in a
row of a job. What is in one beside its role is vLLM's to judge, but for what it would fetch.
"""

from __future__ import annotations

from typing import Any

from shared.fields import Message, shown

#: What a model says to a function is the function's to read, and no replica's.
UNREAD = "arguments"


def complaint(message: Any) -> Message | None:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return Message("each message must have a role, e.g. user")
    if not isinstance(content := message.get("content"), str | list | None):
        return Message("has the content {content}: must be a text, a list of parts, or null", content=shown(content))
    return address_complaint(message)


def address_complaint(item: Any) -> Message | None:
    """About an address at any depth: a replica that reads pictures would fetch it, from inside our network."""
    waiting = [item]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += (each for each in part if isinstance(each, dict | list))
        elif isinstance(part, dict):
            if (name := next((name for name in part if _is_address(name, part[name])), None)) is not None:
                return Message("has {name}: nothing is fetched; send what lies there, as data:...", name=name)
            waiting += (each for name, each in part.items() if name != UNREAD and isinstance(each, dict | list))
    return None


def _is_address(name: str, value: Any) -> bool:
    url = value.get("url") if isinstance(value, dict) else value
    return name.endswith("_url") and url is not None and not (isinstance(url, str) and url.startswith("data:"))
