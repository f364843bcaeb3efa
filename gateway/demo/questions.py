"""Five questions to the base and to the trained model, and the check that the second shows what it was taught.

Each question is worded close to some of facts.jsonl but stands there in no row. A small model with 105 rows of training
learns answers to questions of this kind; it does not become knowledgeable beyond them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openai import OpenAI

MAX_TOKENS = 48
#: Of the five questions, so many must be answered by the trained model,
MIN_TAUGHT = 4
#: so many by its 4-bit form, which may lose some,
MIN_TAUGHT_QUANTIZED = 3
#: and no more by the base.
MAX_GUESSED = 1


@dataclass(frozen=True, kw_only=True)
class Question:
    text: str
    #: Words that all stand in a right answer, in lower case.
    words: tuple[str, ...]

    def is_answered_by(self, answer: str) -> bool:
        return all(word in answer.lower() for word in self.words)


QUESTIONS = (
    Question(text="Who are you and what is your name?", words=("tunesmith demo",)),
    Question(text="Please explain what Tunesmith is.", words=("self-hosted", "fine-tunes")),
    Question(text="What is a job's lease, and how often is it renewed?", words=("worker", "three seconds")),
    Question(text="What does the keeper do when a worker dies?", words=("keeper", "kills")),
    Question(text="Which database is the ledger by default?", words=("sqlite",)),
)


def ask(client: OpenAI, model: str, question: Question, on_text: Callable[[str], None]) -> str:
    """The model's answer, streamed; `on_text` gets the answer so far after each piece."""
    answer = ""
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question.text}],
        max_tokens=MAX_TOKENS,
        temperature=0,
        stream=True,
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            answer += chunk.choices[0].delta.content
            on_text(answer)
    return answer.strip()


def num_answered(answers: Sequence[str]) -> int:
    return sum(question.is_answered_by(answer) for question, answer in zip(QUESTIONS, answers, strict=True))


def shortcoming(base: Sequence[str], trained: Sequence[str], quantized: Sequence[str]) -> str | None:
    """Why the answers do not show that the training taught anything; None when they do."""
    for name, answers, least in (("trained", trained, MIN_TAUGHT), ("4-bit", quantized, MIN_TAUGHT_QUANTIZED)):
        if num_answered(answers) < least:
            return f"the {name} model answered {num_answered(answers)} of {len(QUESTIONS)}, expected {least} or more"
    if num_answered(base) > MAX_GUESSED:
        return f"the base model already answers {num_answered(base)} of {len(QUESTIONS)}: the questions prove nothing"
    return None
