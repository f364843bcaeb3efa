"""Every body of the corpus is refused within a second, under the field that is wrong, and nothing is queued."""

from __future__ import annotations

import time

import pytest

from tests.corpus import configs, texts
from tests.corpus.configs import Case
from tests.lf_examples import posting
from tests.platform import Platform

CASES = [*configs.CASES, *texts.CASES]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return posting.furnished(tmp_path_factory.mktemp("corpus"))


def test_there_are_enough_and_no_two_are_the_same() -> None:
    assert len(CASES) > 120
    assert len({(case.path, case.body, case.content_type, str(case.headers)) for case in CASES}) == len(CASES)


def test_what_the_cases_change_is_accepted_as_it_stands(platform: Platform) -> None:
    assert platform.post("/v1/jobs", dict(configs.GOOD)).status_code == 201


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_body_is_refused_under_its_field_and_nothing_is_queued(platform: Platform, case: Case) -> None:
    before = platform.store.jobs.counts()
    headers = {**platform.headers(), "Content-Type": str(case.content_type), **case.headers}
    started = time.process_time()  # not of the machine's other work
    answer = platform.client.post(case.path, data=case.body, headers=headers)
    seconds = time.process_time() - started
    error = answer.get_json()["error"]
    told = {issue["field"]: issue["message"] for issue in error.get("issues", [])} or {error["param"]: error["message"]}
    assert answer.status_code == case.status, error
    assert any((field or "").startswith(case.field) and case.part in message for field, message in told.items()), told
    assert platform.store.jobs.counts() == before
    assert seconds < 1
    assert len(answer.data) < 100_000


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.headers and case.path == "/v1/jobs"], ids=lambda case: case.id
)
def test_a_plan_refuses_what_a_job_would_but_for_what_may_still_come(platform: Platform, case: Case) -> None:
    headers = {**platform.headers(), "Content-Type": str(case.content_type)}
    refused = platform.client.post("/v1/jobs", data=case.body, headers=headers).get_json()["error"]
    started = time.process_time()
    answer = platform.client.post("/v1/plans", data=case.body, headers=headers)
    assert time.process_time() - started < 1
    codes = {issue["code"] for issue in refused.get("issues", [])} or {refused["code"]}
    if codes <= {"model_not_found", "dataset_not_found", "key_not_found"}:
        findings = answer.get_json()["findings"]
        assert {case.field} & {found["field"] for found in findings if found["severity"] != "info"}
    else:
        assert answer.status_code == case.status
