"""One answer while it grows: its tokens, the text that they make, and where it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from inference_worker.child.transformers_server.sampling import Constraint, Drawn, LogProb, Sampling

#: Tokens before an answer that its first ones are decoded with: some tokenizers write a space by what came before.
NUM_CONTEXT_TOKENS = 6
#: How a text that ends within a character is decoded.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What has come to one answer since the piece before."""

    #: Of the choice.
    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[LogProb, ...] = ()
    #: `stop` or `length`, with the last piece.
    finish_reason: str | None = None
    #: Text or token that ended it, where the request named it.
    stop_reason: str | int | None = None


Sink = Callable[[Piece | Exception], None]


class Decoder:
    """Token by token into text; what may still change is kept back."""

    def __init__(self, tokenizer: Any, prompt_ids: list[int], skip_special_tokens: bool):
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._ids = list(prompt_ids[-NUM_CONTEXT_TOKENS:])
        #: Tokens before `start` are told; those from `context` on are decoded again to tell what follows them.
        self._context, self._start = 0, len(self._ids)

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        text = self._new()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._context, self._start = self._start, len(self._ids)
        return text

    def flush(self) -> str:
        """What is left, whole characters or not."""
        return self._new()

    def _new(self) -> str:
        told = self._decode(self._ids[self._context : self._start])
        return self._decode(self._ids[self._context :])[len(told) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=self._skip))


@dataclass(kw_only=True, eq=False)
class Answer:
    """One choice of a request; fed by the thread that computes."""

    index: int
    prompt_ids: list[int]
    sampling: Sampling
    decoder: Decoder
    generator: torch.Generator
    sink: Sink
    constraint: Constraint | None = None
    ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    _text: str = ""
    #: Characters of the text that were passed on, and tokens.
    _num_told: int = 0
    _num_ids_told: int = 0
    _logprobs: list[LogProb] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    def accept(self, drawn: Drawn) -> None:
        """Take the next token, and pass on what it makes certain."""
        self.ids.append(drawn.token_id)
        if drawn.logprob is not None:
            self._logprobs.append(drawn.logprob)
        before = len(self._text)
        if (ended_by := self._ending(drawn.token_id)) is not None:
            self.finish_reason, self.stop_reason = "stop", None if ended_by is True else drawn.token_id
            if self.sampling.include_stop_str_in_output:
                self._text += self.decoder.push(drawn.token_id)
        else:
            self._text += self.decoder.push(drawn.token_id)
        if not self.is_finished and len(self.ids) >= self.sampling.max_tokens:
            self.finish_reason = "length"
        if self.is_finished:
            self._text += self.decoder.flush() if ended_by is None else ""
        self._cut(before)
        self._tell()

    def _ending(self, token_id: int) -> bool | int | None:
        """True for the model's own end, the token for one that the request named, else None."""
        if token_id in self.sampling.stop_token_ids:
            return token_id
        return True if token_id in self.sampling.eos_token_ids else None

    def _cut(self, before: int) -> None:
        """End at the first of the request's stop texts that is complete now."""
        if len(self.ids) <= self.sampling.min_tokens:
            return
        for stop in self.sampling.stop:
            start = self._text.find(stop, max(0, before - len(stop) + 1))
            if start >= 0:
                end = start + len(stop) if self.sampling.include_stop_str_in_output else start
                self._text = self._text[:end]
                self.finish_reason, self.stop_reason = "stop", stop
                return

    def _tell(self) -> None:
        """All but what may turn out to begin a stop text."""
        kept_back = max((len(stop) - 1 for stop in self.sampling.stop), default=0)
        end = len(self._text) if self.is_finished else max(self._num_told, len(self._text) - kept_back)
        if end == self._num_told and not self.is_finished:
            return
        piece = Piece(
            index=self.index,
            text=self._text[self._num_told : end],
            token_ids=tuple(self.ids[self._num_ids_told :]),
            logprobs=tuple(self._logprobs),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )
        self._num_told, self._num_ids_told, self._logprobs = end, len(self.ids), []
        self.sink(piece)


@dataclass(kw_only=True, eq=False)
class Task:
    """The answers to one prompt, computed together."""

    prompt_ids: list[int]
    answers: list[Answer]
    #: Name of the LoRA adapter; None: the base answers.
    adapter: str | None = None
    #: Above 1 the answers are the best of so many beams.
    num_beams: int = 1
    length_penalty: float = 1.0
    sink: Sink
    #: Set by the side that talks when nobody waits for it any more.
    cancelled: bool = False

    @property
    def is_over(self) -> bool:
        return self.cancelled or all(answer.is_finished for answer in self.answers)
