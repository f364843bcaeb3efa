"""How one request wants its tokens drawn, and the drawing itself.

Members, defaults and their order are those of vLLM's OpenAI routes. Shapes: V vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch

#: Below this a temperature means the likeliest token, as in vLLM.
GREEDY_TEMPERATURE = 1e-5
#: Candidates that are looked at before the whole vocabulary is sorted for top_p: sorting 49k takes 3 ms.
NUM_CANDIDATES = 1024


@dataclass(frozen=True, kw_only=True)
class Sampling:
    temperature: float = 1.0
    top_p: float = 1.0
    #: 0 or less: all.
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int = 16
    min_tokens: int = 0
    #: Tokens that end an answer by the model's own config; none where the request ignores them.
    eos_token_ids: frozenset[int] = frozenset()
    #: Tokens that end it because the request says so.
    stop_token_ids: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    #: Empty: all.
    allowed_token_ids: tuple[int, ...] = ()
    #: Alternatives told with each token; None: no logprobs at all.
    num_logprobs: int | None = None

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_TEMPERATURE

    @property
    def is_plain(self) -> bool:
        """Whether the logits are taken as they are."""
        changed = (self.repetition_penalty != 1, self.presence_penalty, self.frequency_penalty, self.min_tokens)
        return not any(changed) and not self.logit_bias and not self.allowed_token_ids


class LogProb(NamedTuple):
    token_id: int
    logprob: float
    #: The likeliest tokens with theirs, best first.
    top: tuple[tuple[int, float], ...]


class Drawn(NamedTuple):
    token_id: int
    logprob: LogProb | None


class Constraint(Protocol):
    """A grammar that the answer follows."""

    def mask(self, scores: torch.Tensor) -> torch.Tensor: ...
    def accept(self, token_id: int) -> None: ...


class Row(Protocol):
    """What is known of an answer when its next token is drawn."""

    @property
    def sampling(self) -> Sampling: ...
    @property
    def prompt_ids(self) -> Sequence[int]: ...
    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def generator(self) -> torch.Generator: ...
    @property
    def constraint(self) -> Constraint | None: ...


def draw(row: Row, logits: torch.Tensor) -> Drawn:
    """The next token of `row`. logits: [V], float32."""
    sampling = row.sampling
    scores = logits if sampling.is_plain else adjusted(row, logits)
    if row.constraint is not None:
        scores = row.constraint.mask(scores)
    token_id = int(scores.argmax()) if sampling.is_greedy else sampled(scores, sampling, row.generator)
    if row.constraint is not None:
        row.constraint.accept(token_id)
    return Drawn(token_id, logprob(logits, token_id, sampling.num_logprobs))


def adjusted(row: Row, logits: torch.Tensor) -> torch.Tensor:
    """After penalties, biases and what the request forbids. logits: [V]"""
    sampling, scores = row.sampling, logits.clone()
    if sampling.allowed_token_ids:
        allowed = torch.tensor(sampling.allowed_token_ids, device=scores.device)
        scores = torch.full_like(scores, -math.inf).index_copy(0, allowed, scores[allowed])
    for token_id, bias in sampling.logit_bias.items():
        scores[token_id] += bias
    _penalize(row, scores)
    if len(row.ids) < sampling.min_tokens:
        scores[list(sampling.eos_token_ids | sampling.stop_token_ids)] = -math.inf
    return scores


def _penalize(row: Row, scores: torch.Tensor) -> None:
    """Repetition over prompt and answer (CTRL, arXiv 1909.05858, section 4.1), presence and frequency over the answer
    alone, in place. scores: [V]"""
    sampling = row.sampling
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor([*row.prompt_ids, *row.ids], device=scores.device).unique()
        kept = scores[seen]
        scores[seen] = torch.where(kept > 0, kept / sampling.repetition_penalty, kept * sampling.repetition_penalty)
    if row.ids and (sampling.presence_penalty or sampling.frequency_penalty):
        counts = Counter(row.ids)
        ids = torch.tensor(list(counts), device=scores.device)
        times = torch.tensor(list(counts.values()), device=scores.device, dtype=scores.dtype)
        scores[ids] -= sampling.presence_penalty + sampling.frequency_penalty * times


def sampled(scores: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token at random. scores: [V]"""
    scores = scores / sampling.temperature
    if sampling.min_p > 0:
        scores = scores.masked_fill(scores < scores.max() + math.log(sampling.min_p), -math.inf)
    if sampling.top_k > 0:
        values, ids = scores.topk(min(sampling.top_k, len(scores)))
        probabilities = values.softmax(dim=0)
    elif sampling.top_p < 1:
        probabilities, ids = _likeliest(scores, sampling.top_p)
    else:
        probabilities, ids = scores.softmax(dim=0), None
    if sampling.top_p < 1:
        before = probabilities.cumsum(dim=0) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return int(drawn if ids is None else ids[drawn])


def _likeliest(scores: torch.Tensor, mass: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities, best first, and their tokens: as many as add up to `mass`, or more. scores: [V]"""
    total = scores.logsumexp(dim=0)
    values, ids = scores.topk(min(NUM_CANDIDATES, len(scores)))
    probabilities = (values - total).exp()
    if float(probabilities.sum()) < mass:
        values, ids = scores.sort(descending=True)
        probabilities = (values - total).exp()
    return probabilities, ids


def logprob(logits: torch.Tensor, token_id: int, num: int | None) -> LogProb | None:
    """Of the model's own distribution, before anything of the request's. logits: [V]"""
    if num is None:
        return None
    logs = logits.log_softmax(dim=0)
    values, ids = logs.topk(num) if num else (logs[:0], torch.empty(0, dtype=torch.long))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return LogProb(token_id, float(logs[token_id]), top)
