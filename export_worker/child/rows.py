"""Rows of datasets as token ids, rendered with the model's own chat template: to calibrate and to compare models."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from datasets import load_dataset
from transformers import PreTrainedTokenizerBase

from export_worker.child.asked import Sample
from shared import datafiles
from shared.rows import Row

#: Asked when no dataset is known. Plain questions that any instruction model has an opinion on.
PROBES = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Name three colours.",
    "How many days are there in a week?",
)
#: Rows looked at for a choice; the beginning of a very large file is enough.
MAX_ROWS_READ = 50_000


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The datasets of an export (members of run.json), and how much of them is used."""

    calibration: Sequence[Mapping[str, Any]]
    num_samples: int
    max_tokens: int
    #: Datasets of the training that were deleted since.
    gone: Sequence[str] = ()

    def calibration_samples(self, tokenizer: PreTrainedTokenizerBase) -> list[Sample]:
        return choose(tokenizer, self.calibration, self.num_samples, self.max_tokens)


def choose(
    tokenizer: PreTrainedTokenizerBase, datasets: Sequence[Mapping[str, Any]], count: int, max_tokens: int
) -> list[Sample]:
    return [render(tokenizer, row, max_tokens) for row in choose_rows(datasets, count)]


def choose_rows(datasets: Sequence[Mapping[str, Any]], count: int) -> list[Row]:
    """So many rows from all over the datasets; the same ones each time."""
    # A reservoir: every row read has the same chance, and only `count` are held.
    chance = random.Random(0)
    kept: list[Row] = []
    for seen, row in enumerate(islice(read_rows(datasets), MAX_ROWS_READ)):
        if len(kept) < count:
            kept.append(row)
        elif (place := chance.randrange(seen + 1)) < count:
            kept[place] = row
    return kept


def read_rows(datasets: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for dataset in datasets:
        if datafiles.is_local(dataset):
            yield from datafiles.rows(dataset)
        else:
            rows = load_dataset(**datafiles.hub_arguments(dataset), streaming=True)
            yield from datafiles.hub_rows(rows, dataset)


def render(tokenizer: PreTrainedTokenizerBase, row: Row, max_tokens: int) -> Sample:
    """The conversation as the model is trained on it; what comes before the last answer is not scored. Of plain text,
    all but its first token is."""
    if row.text is not None:
        ids = list(tokenizer(row.text)["input_ids"])[:max_tokens]
        return Sample(input_ids=ids, score_from=1, answer_from=len(ids))
    answered = row.messages[-1]["role"] == "assistant"
    before = encode(tokenizer, row.messages[:-1] if answered else row.messages, row.tools, prompt=True)
    ids = encode(tokenizer, row.messages, row.tools, prompt=False) if answered else before
    start = min(len(before), len(ids), max_tokens)
    return Sample(input_ids=ids[:max_tokens], score_from=start if answered else 1, answer_from=start)


def encode(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], tools: list[Any] | None, *, prompt: bool
) -> list[int]:
    if not tokenizer.chat_template:
        return list(tokenizer("\n".join(message["content"] for message in messages))["input_ids"])
    # The template writes its own beginning-of-text token.
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=prompt)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
