"""The written file, loaded and asked by llama.cpp: the proof that whoever runs it gets the model that was trained.

Tokens first: where a text becomes other tokens, or a conversation another text, nothing else is worth comparing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from export_worker.child.answers import NUM_RIVALS, Answer
from export_worker.child.asked import Sample
from export_worker.child.failed import raise_failed
from export_worker.child.llamacpp.client import LlamaCpp
from export_worker.child.reading import Questions, Reading
from export_worker.child.watch import Watch

#: Conversations that a template is rendered with, here and there. Not every template knows a system prompt.
CONVERSATIONS: Sequence[list[dict[str, Any]]] = (
    [{"role": "user", "content": "Is 2026 > 1999 & why?"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": " And\n\nanother one? "},
    ],
)
#: Scored tokens that llama.cpp is asked for, one question each, in whole rows. Each question reads all weights: of
#: large files fewer are asked, as many as read so many bytes.
MAX_SCORED, MIN_SCORED = 1024, 64
MAX_READ = 1.3e12
#: Room for what a file's context adds to a row, tokens.
CONTEXT_MARGIN = 16
#: Tokens before and after a difference that an error shows.
SHOWN = 4


def read(file: Path, tokenizer: PreTrainedTokenizerBase, questions: Questions, watch: Watch) -> Reading:
    """Raises LlamaCppFailed or VerificationFailed where the file does not load, or means other tokens."""
    with LlamaCpp(file, context_tokens(questions)) as llama:
        check_tokens(llama, tokenizer, questions.samples)
        check_template(llama, tokenizer)
        samples = affordable(questions.samples, file.stat().st_size)
        losses = score(llama, samples, watch)
        answers = []
        for sample in questions.samples[: questions.num_answers]:
            watch.check()
            answers.append(answer(llama, tokenizer, sample, questions.answer_tokens))
    return Reading(row_losses=losses, row_tokens=[num_scored(sample) for sample in samples], answers=answers)


def context_tokens(questions: Questions) -> int:
    longest = max(len(sample.input_ids) for sample in questions.samples)
    return longest + questions.answer_tokens + CONTEXT_MARGIN


def check_tokens(llama: LlamaCpp, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample]) -> None:
    for sample in samples:
        text = tokenizer.decode(sample.input_ids, clean_up_tokenization_spaces=False)
        here = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        require_equal(
            "llama.cpp makes other tokens of a text than the training did", tokenizer, here, llama.tokens(text)
        )


def check_template(llama: LlamaCpp, tokenizer: PreTrainedTokenizerBase) -> None:
    """Conversations as llama.cpp writes them with the template in the file: text, and what it puts before it."""
    if not tokenizer.chat_template:
        return
    for messages in CONVERSATIONS:
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError:
            continue
        here = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        there = llama.tokens(llama.rendered(messages), as_prompt=True)
        require_equal("llama.cpp writes a conversation otherwise than the chat template does", tokenizer, here, there)


def require_equal(what: str, tokenizer: PreTrainedTokenizerBase, here: list[int], there: list[int]) -> None:
    if here == there:
        return
    differs = (n for n, (a, b) in enumerate(zip(here, there, strict=False)) if a != b)
    place = next(differs, min(len(here), len(there)))
    around = slice(max(0, place - SHOWN), place + SHOWN)
    words = tokenizer.decode(here[around]), tokenizer.decode(there[around])
    raise_failed(
        what,
        [f"at token {place + 1} of {len(here)}, {words[1]!r} {there[around]} instead of {words[0]!r} {here[around]}"],
        {"expected": here, "found": there},
        "export_format",
    )


def score(llama: LlamaCpp, samples: Sequence[Sample], watch: Watch) -> list[float]:
    """Losses of the rows, summed over their scored tokens, nats."""
    total, done = sum(num_scored(sample) for sample in samples), 0
    losses = []
    for sample in samples:
        loss = 0.0
        for place in range(sample.score_from, len(sample.input_ids)):
            loss -= llama.log_probability(sample.input_ids[:place], sample.input_ids[place])
            done += 1
            watch.progress(done, total, "tokens")
        losses.append(loss)
    return losses


def num_scored(sample: Sample) -> int:
    return len(sample.input_ids) - sample.score_from


def affordable(samples: Sequence[Sample], size_bytes: int) -> Sequence[Sample]:
    """The first rows, at least one."""
    room = min(MAX_SCORED, max(MIN_SCORED, MAX_READ / size_bytes))
    ends = list(accumulate(num_scored(sample) for sample in samples))
    return samples[: max(1, sum(end <= room for end in ends))]


def answer(llama: LlamaCpp, tokenizer: PreTrainedTokenizerBase, sample: Sample, max_tokens: int) -> Answer:
    told = llama.answer(sample.input_ids[: sample.answer_from], max_tokens, NUM_RIVALS)
    text = tokenizer.decode(told.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    rivals = [
        {token: max(step.values()) - probability for token, probability in step.items()} for step in told.likeliest
    ]
    return Answer(ids=told.ids, text=text, ended=told.ended, rivals=rivals)
