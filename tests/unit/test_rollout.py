"""What an update starts and stops next, and which devices a replica takes: played through without a ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from shared import fitting, rollout
from shared.records import Deployment, Replica
from tests.unit.fleet import deployment, replica


def updating(count: int, order: str = "start-first") -> Deployment:
    old = [replica(f"old{index}", "http://x", "smol", ordinal=index) for index in range(count)]
    spec = {"replicas": count, "update_order": order}
    return deployment("smol", old, spec=spec, generation=2, rollout={"status": "running"})


def stepped(now: Deployment) -> Deployment:
    """The moves made: what is stopped is gone at once, what is started is starting."""
    todo = rollout.moves(now)
    left = [replace(one, wanted="stopped", status="stopped") if one.id in todo.stop else one for one in now.replicas]
    first = len(left)
    new = [
        replica(f"new{first + index}", None, "smol", ordinal=first + index, generation=2, status="starting")
        for index in range(todo.start)
    ]
    return replace(now, replicas=[*left, *new])


def _ready(one: Replica) -> Replica:
    return replace(one, status="ready") if one.status == "starting" else one


def played(now: Deployment) -> Iterator[tuple[int, int]]:
    """Until the update is done: how many are ready, and how many come up at once, after each step."""
    for _ in range(50):
        now = stepped(now)
        live = [one for one in now.replicas if one.status != "stopped"]
        yield sum(one.status == "ready" for one in live), sum(one.status == "starting" for one in live)
        if rollout.moves(now).is_done:
            return
        now = replace(
            now,
            replicas=[
                replace(one, status="ready") if one.wanted == "running" and one.status == "starting" else one
                for one in now.replicas
            ],
        )
    raise AssertionError("it does not come to an end")


@pytest.mark.parametrize(("count", "at_once"), [(1, 1), (2, 1), (4, 1), (8, 2), (9, 3)])
def test_as_many_answer_as_before_while_a_quarter_comes_up_at_once(count: int, at_once: int) -> None:
    steps = list(played(updating(count)))

    assert min(ready for ready, _ in steps) == count and max(coming for _, coming in steps) == at_once
    assert steps[-1] == (count, 0)


def test_stopping_first_never_has_more_than_before_and_keeps_all_but_one() -> None:
    steps = list(played(updating(3, "stop-first")))

    assert all(ready + coming <= 3 and ready >= 2 for ready, coming in steps), steps


def test_one_that_is_drained_keeps_its_place_until_it_is_gone_where_stopping_comes_first() -> None:
    now = updating(1, "stop-first")
    [old] = now.replicas
    draining = replace(now, replicas=[replace(old, wanted="stopped", status="stopping")])
    assert rollout.moves(now) == rollout.Moves(stop=("old0",))
    assert rollout.moves(replace(draining, replicas=[replace(old, wanted="stopped", status="stopped")])).start == 1


def test_an_update_of_one_that_sleeps_starts_nothing() -> None:
    now = replace(updating(0), num_wanted=0, spec={"replicas": 3})
    assert rollout.moves(now) == rollout.Moves(is_done=True)


def test_an_adapter_on_another_deployments_replicas_wants_none_of_its_own() -> None:
    hosted = deployment("tuned", host_id="dep-smol", spec={"replicas": 2})
    assert rollout.moves(hosted) == rollout.Moves()


@pytest.mark.parametrize(
    ("spec", "gpus", "promised", "free", "fits"),
    [
        ({}, [], 0, [], True),
        ({"gpus": ["a"]}, [], 0, [], False),
        ({}, ["a", "b"], 0, ["b"], True),
        ({}, ["a", "b"], 1, ["b"], False),
        ({"tensor_parallel_size": 2}, ["a", "b"], 0, ["b"], False),
        ({"tensor_parallel_size": 2}, ["a", "b"], 0, ["a", "b"], True),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, list("abc"), 0, list("abc"), False),
        ({"gpus": ["a"]}, ["a", "b"], 0, ["b"], False),
        ({"gpus": ["b", "c"]}, ["a", "b"], 0, ["a", "b"], True),
    ],
)
def test_a_worker_takes_what_its_free_gpus_can_start(
    spec: dict[str, Any], gpus: list[str], promised: int, free: list[str], fits: bool
) -> None:
    assert fitting.fits(spec, gpus, promised, free) is fits


def test_a_first_replica_that_fails_takes_the_update_back() -> None:
    now = stepped(updating(2))
    broken = [replace(one, status="failed", error="no memory") if one.generation == 2 else one for one in now.replicas]
    assert rollout.moves(replace(now, replicas=broken)).failure == "no memory"
    assert rollout.moves(replace(now, replicas=broken, rollout={"status": "rolled_back"})).failure is None
