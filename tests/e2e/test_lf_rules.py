"""LF's own rules, each answered: refused under its field, said as a finding, or held by the spec, proven by posting."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lf_examples import arguments, posting, rules
from tests.platform import Platform

ANSWERS = [(number, answer) for number, answers in rules.RULES.items() for answer in answers]
PROVEN = [(number, answer) for number, answer in ANSWERS if not isinstance(answer, rules.NotHere)]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return posting.furnished(tmp_path_factory.mktemp("rules"))


def test_every_rule_has_an_answer() -> None:
    assert sorted(rules.RULES) == list(range(1, rules.NUM_RULES + 1))
    assert all(rules.RULES.values())


@pytest.mark.parametrize(("number", "answer"), PROVEN, ids=[f"{number}: {answer.field}" for number, answer in PROVEN])
def test_a_rule_is_answered_as_the_table_says(platform: Platform, number: int, answer: Any) -> None:
    body = {**arguments.BASE["train"], **answer.body}
    made = platform.post("/v1/jobs", body)
    if isinstance(answer, rules.Refused):
        assert made.status_code == 422
        issues = {issue["field"]: issue["message"] for issue in made.get_json()["error"]["issues"]}
        assert answer.part in issues[answer.field]
        return
    job = made.get_json()
    assert made.status_code in (200, 201), job
    if isinstance(answer, rules.Holds):
        assert job["spec"][answer.field] == answer.value
    else:
        told = dict(arguments.findings(platform, job["id"]))
        assert answer.part in told[answer.field]


def test_a_deployment_is_asked_neither_for_a_stage_nor_for_bits(platform: Platform) -> None:
    body = {"model": "whole", "stage": "dpo", "quantization_bit": 4, "adapter_name_or_path": "a,b"}
    issues = platform.post("/v1/deployments", body).get_json()["error"]["issues"]
    assert {"stage", "quantization_bit"} <= {issue["field"] for issue in issues}
