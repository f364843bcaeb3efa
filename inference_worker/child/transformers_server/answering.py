"""Answers in OpenAI's form, with the members that vLLM's have; whole, or piece by piece for a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from inference_worker.child.transformers_server.sampling import LogProb
from inference_worker.child.transformers_server.sequence import Piece

DONE = b"data: [DONE]\n\n"


@dataclass
class Usage:
    prompt_tokens: int
    completion_tokens: int = 0

    def count(self, piece: Piece) -> None:
        self.completion_tokens += len(piece.token_ids)

    def to_json(self) -> dict[str, int]:
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": total,
            "completion_tokens": self.completion_tokens,
        }


@dataclass(frozen=True, kw_only=True)
class Head:
    """What every part of an answer repeats."""

    model: str
    prefix: str
    tokenizer: Any
    with_token_ids: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def to_json(self, kind: str) -> dict[str, Any]:
        return {"id": self.prefix + self.id, "object": kind, "created": self.created, "model": self.model}

    def text_of(self, token_id: int) -> str:
        return str(self.tokenizer.decode([token_id]))


class Form(Protocol):
    """How one of the routes writes its answers."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """The event with which a choice begins, if it has one."""

    def chunk(self, piece: Piece) -> dict[str, Any]: ...
    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]: ...
    def last(self, usage: Usage) -> dict[str, Any]:
        """The event that tells the usage."""


class ChatForm:
    def __init__(self, head: Head):
        self._head = head

    def opening(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return self._event([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def chunk(self, piece: Piece) -> dict[str, Any]:
        choice = {"index": piece.index, "delta": {"content": piece.text}, **self._told(piece)}
        return self._event([choice])

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        choices = [
            {"index": piece.index, "message": {"role": "assistant", "content": piece.text}, **self._told(piece)}
            for piece in pieces
        ]
        return {**self._head.to_json("chat.completion"), "choices": choices, "usage": usage.to_json()}

    def last(self, usage: Usage) -> dict[str, Any]:
        return {**self._event([]), "usage": usage.to_json()}

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head.to_json("chat.completion.chunk"), "choices": choices}

    def _told(self, piece: Piece) -> dict[str, Any]:
        logprobs = {"content": [self._entry(one) for one in piece.logprobs]} if piece.logprobs else None
        ends = {"finish_reason": piece.finish_reason, "stop_reason": piece.stop_reason}
        ids = {"token_ids": list(piece.token_ids)} if self._head.with_token_ids else {}
        return {"logprobs": logprobs, **ends, **ids}

    def _entry(self, one: LogProb) -> dict[str, Any]:
        top = [self._named(token_id, logprob) for token_id, logprob in one.top]
        return {**self._named(one.token_id, one.logprob), "top_logprobs": top}

    def _named(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self._head.text_of(token_id)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}


class CompletionForm:
    def __init__(self, head: Head):
        self._head = head
        #: Characters of each choice that were told, for the offsets of its logprobs.
        self._offsets: dict[int, int] = {}

    def opening(self, index: int) -> dict[str, Any] | None:
        return None

    def chunk(self, piece: Piece) -> dict[str, Any]:
        return {**self._head.to_json("text_completion"), "choices": [self._choice(piece)]}

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        choices = [self._choice(piece) for piece in pieces]
        return {**self._head.to_json("text_completion"), "choices": choices, "usage": usage.to_json()}

    def last(self, usage: Usage) -> dict[str, Any]:
        return {**self._head.to_json("text_completion"), "choices": [], "usage": usage.to_json()}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        ends = {"finish_reason": piece.finish_reason, "stop_reason": piece.stop_reason}
        ids = {"token_ids": list(piece.token_ids)} if self._head.with_token_ids else {}
        logprobs = self._logprobs(piece) if piece.logprobs else None
        return {"index": piece.index, "text": piece.text, "logprobs": logprobs, **ends, **ids}

    def _logprobs(self, piece: Piece) -> dict[str, Any]:
        told: dict[str, list[Any]] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
        for one in piece.logprobs:
            text, offset = self._head.text_of(one.token_id), self._offsets.get(piece.index, 0)
            self._offsets[piece.index] = offset + len(text)
            told["text_offset"].append(offset)
            told["tokens"].append(text)
            told["token_logprobs"].append(max(one.logprob, -9999.0))
            # As vLLM: the drawn token, and the likeliest.
            top = {self._head.text_of(token_id): max(logprob, -9999.0) for token_id, logprob in one.top}
            told["top_logprobs"].append({text: max(one.logprob, -9999.0)} | top)
        return told


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces of each choice as one, in the order of the choices."""
    by_index: dict[int, list[Piece]] = {}
    for piece in pieces:
        by_index.setdefault(piece.index, []).append(piece)
    return [_one(by_index[index]) for index in sorted(by_index)]


def _one(pieces: list[Piece]) -> Piece:
    return Piece(
        index=pieces[0].index,
        text="".join(piece.text for piece in pieces),
        token_ids=tuple(token_id for piece in pieces for token_id in piece.token_ids),
        logprobs=tuple(one for piece in pieces for one in piece.logprobs),
        finish_reason=pieces[-1].finish_reason,
        stop_reason=pieces[-1].stop_reason,
    )


def event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
