"""One answer on the terminal, as it comes: thoughts dim, then the text. Ctrl-C ends it and keeps what was said.

Leaving the stream closes the connection, and with it the generation on the replica.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from rich.console import Console

from gateway.cli.client import ApiError, Client

PATH = "/v1/chat/completions"


@dataclass(kw_only=True)
class Said:
    text: str = ""
    #: Of calls of tools, id, name and arguments, by their index.
    calls: dict[int, list[str]] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None
    is_stopped: bool = False
    first_seconds: float | None = None
    seconds: float = 0.0

    @property
    def message(self) -> dict[str, Any] | None:
        """The turn of the conversation that it is; None: there is nothing in it. A call that broke off is none, since
        templates read its arguments."""
        calls = [
            {"id": id or f"call_{index}", "type": "function", "function": {"name": name, "arguments": said or "{}"}}
            for index, (id, name, said) in self.calls.items()
            if _is_object(said or "{}")
        ]
        if not self.text and not calls:
            return None
        return {"role": "assistant", "content": self.text or None} | ({"tool_calls": calls} if calls else {})

    @property
    def note(self) -> str:
        """How long it took and how it ended."""
        tokens = (self.usage or {}).get("completion_tokens")
        parts = ["stopped" if self.is_stopped else ""]
        parts += [f"{tokens} tokens, {tokens / self.seconds:.1f} tok/s"] if tokens and self.seconds else []
        parts += [f"first after {self.first_seconds:.2f} s"] if self.first_seconds is not None else []
        parts += [f"ended by {self.finish_reason}"] if self.finish_reason not in (None, "stop") else []
        return ", ".join(part for part in parts if part)


def speak(client: Client, console: Console, body: Mapping[str, Any]) -> Said:
    """Ask with `body` and print the answer while it comes. Raises ApiError, also for a stream that broke."""
    said, started_at = Said(), time.monotonic()
    is_thinking = False
    try:
        for delta in _until_interrupted(_deltas(client, body, said)):
            thought = delta.get("reasoning") or delta.get("reasoning_content") or ""
            text = delta.get("content") or ""
            if (thought or text) and said.first_seconds is None:
                said.first_seconds = time.monotonic() - started_at
            if text and is_thinking:
                console.out("\n")
                is_thinking = False
            if thought:
                is_thinking = True
                console.out(thought, end="", style="dim italic", highlight=False)
            console.out(text, end="", highlight=False)
            said.text += text
    except KeyboardInterrupt:
        said.is_stopped = True
    said.seconds = time.monotonic() - started_at
    console.out("")
    for _, name, arguments in said.calls.values():
        show_call(console, name, arguments)
    return said


def show_call(console: Console, name: str, arguments: str) -> None:
    console.out(f"{name}({arguments})", style="cyan", highlight=False)


def _until_interrupted(deltas: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Raises KeyboardInterrupt also where the one of the signal was raised in code that drops it, as finalizers do."""
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        for delta in deltas:
            if pressed:
                raise KeyboardInterrupt
            yield delta
    finally:
        signal.signal(signal.SIGINT, before)


def _deltas(client: Client, body: Mapping[str, Any], said: Said) -> Iterator[dict[str, Any]]:
    try:
        with client.events("POST", PATH, body=body) as events:
            for event in events:
                if event.data == "[DONE]":
                    return
                yield from _taken(json.loads(event.data), said)
    except ApiError as error:
        if not any(issue.get("field") == "num_beams" for issue in error.issues):
            raise
        # Beams are compared at the end: there is nothing to stream.
        whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        yield from _taken(client.post(PATH, whole), said)


def _taken(chunk: Mapping[str, Any], said: Said) -> Iterator[dict[str, Any]]:
    """What the first choice of a chunk, or of a whole answer, says; the rest of it goes into `said`."""
    if "error" in chunk:
        raise ApiError(500, chunk["error"])
    said.usage = chunk.get("usage") or said.usage
    for choice in chunk["choices"][:1]:
        delta = choice.get("delta") or choice.get("message") or {}
        said.finish_reason = choice.get("finish_reason") or said.finish_reason
        for index, call in enumerate(delta.get("tool_calls") or ()):
            parts = said.calls.setdefault(call.get("index", index), ["", "", ""])
            function = call.get("function") or {}
            parts[0] = call.get("id") or parts[0]
            parts[1] += function.get("name") or ""
            parts[2] += function.get("arguments") or ""
        yield delta


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
