"""compose.yaml on a real engine: a training goes through the end of every container, through `down` and `up`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.compose.stack import Stack
from tests.compose.work import Work
from tests.platform import wait_until

pytestmark = pytest.mark.timeout(1800)


def further(*services: str) -> list[ParameterSet]:
    return [pytest.param(service, marks=pytest.mark.slow) for service in services]


@pytest.fixture(scope="module")
def long(work: Work) -> str:
    """A training that does not end by itself."""
    job_id = work.train(num_train_epochs=10000)
    work.until_past(job_id, 50)
    return job_id


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the containers' user may write to."""
    folder = tmp_path_factory.mktemp("backup")
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def waiting(work: Work, long: str) -> str:
    """A training that waits for the device."""
    return work.train(num_train_epochs=3, seed=7)


def test_all_services_are_healthy_and_seen_by_prometheus(stack: Stack) -> None:
    def seen() -> bool:
        found = {sample["metric"].get("service", sample["metric"]["job"]) for sample in stack.query("up == 1")}
        return {"gateway", "beat", "trainer"} <= found

    wait_until(seen, 300, "Prometheus scrapes every service")


@pytest.mark.parametrize(
    "service", ["redis", *further("gateway", "postgres", "prometheus", "beat", "generate", "export")]
)
def test_a_training_goes_on_while_another_container_dies(stack: Stack, work: Work, long: str, service: str) -> None:
    before = work.step(long)
    stack.kill(service)
    stack.until_it_answers()
    work.until_past(long, before)
    assert work.job(long)["attempt"] == 1


def test_a_training_whose_container_dies_goes_on_from_its_checkpoint(
    stack: Stack, work: Work, long: str, waiting: str
) -> None:
    before = work.until_past(long, 100)
    stack.kill("trainer")
    assert work.resumed(long, 2) > 0
    work.until_past(long, before)
    # It may have had its turn while nobody held the device.
    assert work.job(waiting)["status"] in ("queued", "running", "succeeded")


@pytest.mark.slow
def test_after_down_and_up_everything_is_there_and_goes_on(stack: Stack, work: Work, long: str, waiting: str) -> None:
    before, models = work.step(long), catalog(stack)
    samples = stack.number("sum(count_over_time(up[1h]))")
    codes = stack.stop()
    assert set(codes.values()) == {0}, codes
    stack.down()
    stack.up()
    assert work.resumed(long, 3) >= before, "it had written a checkpoint when it was stopped"
    assert catalog(stack) == models
    assert stack.number("sum(count_over_time(up[1h]))") >= samples
    # It may have had its turn while nobody held the device.
    assert work.job(waiting)["status"] in ("queued", "running", "succeeded")


def test_what_waited_is_trained(stack: Stack, work: Work, long: str, waiting: str) -> None:
    stack.client.post(f"/v1/jobs/{long}/cancel")
    assert work.until(waiting, "succeeded")["model"]
    steps = [event["data"]["step"] for event in work.measured(long) if not event["superseded"]]
    assert steps == sorted(set(steps)), "no step counts twice"


def test_the_doctor_finds_nothing_wrong_in_the_stack(stack: Stack, work: Work) -> None:
    checks = json.loads(stack.compose("exec", "-T", "gateway", "tunesmith", "doctor", "--json"))["findings"]
    assert len(checks) > 10
    assert not [check for check in checks if check["state"] == "error"]


def test_the_running_stack_is_backed_up_whole(stack: Stack, work: Work, place: Path) -> None:
    one_off(stack, place, "backup", "/backup")
    assert "whole" in one_off(stack, place, "backup", "/backup", "--check")


@pytest.mark.slow
def test_an_emptied_stack_is_what_was_backed_up(stack: Stack, work: Work, place: Path) -> None:
    one_off(stack, place, "backup", "/backup")
    before = catalog(stack)
    assert before
    stack.down("--volumes")
    stack.up()
    one_off(stack, place, "restore", "/backup")
    assert catalog(stack) == before, "the old key opens it, too"


def one_off(stack: Stack, place: Path, *command: str) -> str:
    """As the README says it."""
    options = ("run", "--rm", "--no-deps", "-T", "-v", f"{place}:/backup")
    return stack.compose(*options, "gateway", "tunesmith", *command)


def catalog(stack: Stack) -> list[tuple[str, int]]:
    """Which models there are; who answers to them is another matter."""
    return [(model["id"], model["created"]) for model in stack.client.get("/v1/models")["data"]]
