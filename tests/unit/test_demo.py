"""What the demo ships: its dataset, its spec, and the check at its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway import demo
from gateway.demo import questions
from gateway.demo.questions import QUESTIONS
from shared import request, schema
from shared.settings import Settings
from shared.spec import TrainSpec

HERE = Path(demo.__file__).parent
PAIRS = [
    tuple(message["content"] for message in json.loads(line)["messages"])
    for line in (HERE / "facts.jsonl").read_text().splitlines()
]


def test_every_fact_is_asked_five_ways_and_answered_one_way() -> None:
    asked = [question for question, _ in PAIRS]
    assert len(asked) == len(set(asked)) == 105
    answers = [answer for _, answer in PAIRS]
    assert {answers.count(answer) for answer in answers} == {5}
    assert all(10 <= len(answer.split()) <= 25 for answer in answers)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.text)
def test_a_question_stands_in_no_row_but_a_row_holds_its_answer(question: questions.Question) -> None:
    assert question.text not in {asked for asked, _ in PAIRS}
    assert len({answer for _, answer in PAIRS if question.is_answered_by(answer)}) == 1


def test_the_facts_agree_with_the_settings() -> None:
    settings = Settings()
    assert (settings.renew_seconds, settings.lease_seconds, settings.sweep_seconds) == (3.0, 30.0, 5.0)


def test_the_spec_passes_the_door() -> None:
    body = request.parse_yaml((HERE / "train.yaml").read_text())
    spec = schema.load(TrainSpec, body)
    assert spec.lora.rank == body["lora_rank"]


def test_the_check_fails_when_nothing_was_taught_or_nothing_had_to_be() -> None:
    right = [next(answer for _, answer in PAIRS if question.is_answered_by(answer)) for question in QUESTIONS]
    wrong = ["I am a helpful assistant."] * len(QUESTIONS)
    assert questions.shortcoming(wrong, right, right) is None
    assert "the trained model answered 0 of 5" in str(questions.shortcoming(wrong, wrong, right))
    assert "the 4-bit model answered 0 of 5" in str(questions.shortcoming(wrong, right, wrong))
    assert "already answers 5 of 5" in str(questions.shortcoming(right, right, right))
