"""What models are asked when they are compared: rows to score, prompts to go on with. Values only, standard library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Sample:
    input_ids: list[int]
    #: First token that the model is measured on, at least 1.
    score_from: int
    #: Where the model takes over when it is asked for an answer.
    answer_from: int


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A conversation that a model is asked to go on with, and the ids that the training makes of it."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    ids: list[int]
