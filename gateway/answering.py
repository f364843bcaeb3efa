"""One answer of a model, read and measured: put together from the events of a stream as they come, or from a whole one.

For routes that work with answers (gateway/comparing.py); what is only passed on is never parsed (gateway/proxy.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.call import Answer
from gateway.eventstream import DONE
from shared.errors import Unavailable


class Stopped(Exception):
    """Nobody wants the answer any more."""


@dataclass(kw_only=True)
class Read:
    """What has come of an answer so far."""

    text: str = ""
    #: What a model that thinks says before its answer.
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    logprobs: list[Any] = field(default_factory=list)
    #: From sending the request, seconds; None: nothing has come.
    first_token_seconds: float | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        usage = self.usage or {}
        num_tokens = usage.get("completion_tokens")
        speed = round(num_tokens / self.seconds, 2) if num_tokens and self.seconds else None
        told: dict[str, Any] = {
            "text": self.text,
            "reasoning": self.reasoning or None,
            "finish_reason": self.finish_reason,
            "prompt_tokens": usage.get("prompt_tokens"),
            "completion_tokens": num_tokens,
            "seconds": round(self.seconds, 4),
            "first_token_seconds": _rounded(self.first_token_seconds),
            "tokens_per_second": speed,
        }
        more = {"tool_calls": self.tool_calls, "logprobs": self.logprobs}
        return told | {name: value for name, value in more.items() if value}


def read(
    send: Callable[[], Answer],
    into: Read,
    told: Callable[[dict[str, str]], None] = lambda piece: None,
    is_unwanted: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """The answer to `send`, put together in `into`; `told` hears each piece of text or reasoning as it comes.

    Raises Stopped once `is_unwanted`; Unavailable when the replica breaks off, with what came before in `into`.
    """
    started_at = clock()
    try:
        answer = send()
        if isinstance(answer.body, bytes):
            _add(into, json.loads(answer.body))
            return
        try:
            for chunk in _chunks(answer.body):
                if is_unwanted():
                    raise Stopped
                piece = _add(into, chunk)
                if (piece or into.tool_calls) and into.first_token_seconds is None:
                    into.first_token_seconds = clock() - started_at
                if piece:
                    told(piece)
        finally:
            answer.body.close()
    finally:
        into.seconds = clock() - started_at


def _chunks(stream: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    for events in stream:
        for event in events.split(b"\n\n"):
            if event.startswith(b"data:") and not event.startswith(DONE):
                chunk = json.loads(event.removeprefix(b"data:"))
                if "error" in chunk:
                    raise Unavailable(str(chunk["error"].get("message")))
                yield chunk


def _add(into: Read, chunk: Mapping[str, Any]) -> dict[str, str]:
    """The text and reasoning that the chunk brings."""
    if chunk.get("usage"):
        into.usage = dict(chunk["usage"])
    if not chunk.get("choices"):
        return {}
    choice = chunk["choices"][0]
    into.finish_reason = choice.get("finish_reason") or into.finish_reason
    into.logprobs += (choice.get("logprobs") or {}).get("content") or []
    said = choice.get("delta") or choice.get("message") or {}
    piece = {
        "text": choice.get("text") or said.get("content") or "",
        # vLLM's name for it has changed.
        "reasoning": said.get("reasoning") or said.get("reasoning_content") or "",
    }
    into.text += piece["text"]
    into.reasoning += piece["reasoning"]
    for call in said.get("tool_calls") or ():
        _add_call(into.tool_calls, call)
    return {name: value for name, value in piece.items() if value}


def _add_call(calls: list[dict[str, Any]], piece: Mapping[str, Any]) -> None:
    """The arguments of a call come piece by piece, its name once."""
    index = piece.get("index", len(calls))
    while len(calls) <= index:
        calls.append({"id": None, "name": "", "arguments": ""})
    function = piece.get("function") or {}
    calls[index]["id"] = piece.get("id") or calls[index]["id"]
    calls[index]["name"] += function.get("name") or ""
    calls[index]["arguments"] += function.get("arguments") or ""


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
