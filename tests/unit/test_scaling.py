"""How many replicas a deployment wants: by load, with hysteresis, none when nobody asks. A clock of the test's own."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shared import scaling, schema
from shared.errors import InvalidSpec
from shared.records import Deployment
from shared.scaling import Scaler
from shared.spec import DeploySpec
from tests.unit.fleet import NOW, deployment, replica


def served(loads: list[float], num_wanted: int | None = None, **spec: Any) -> Deployment:
    wire = schema.to_wire(schema.load(DeploySpec, {"model": "smol", **spec}))
    replicas = [replica(f"r{index}", "http://x", "smol", load=load) for index, load in enumerate(loads)]
    return deployment("smol", replicas, spec=wire, num_wanted=num_wanted)


class Looking:
    """A sweep every 5 s."""

    def __init__(self) -> None:
        self.now = 0.0
        self.scaler = Scaler(clock=lambda: self.now)

    def on(self, deployment: Deployment, seconds: float = 5) -> list[tuple[int, str]]:
        found = []
        for _ in range(int(seconds // 5)):
            self.now += 5
            found += [(step.num_wanted, step.type) for _, step in self.scaler.steps([deployment])]
            if found:
                return found
        return found


SCALED: dict[str, Any] = {"max_replicas": 4, "target_ongoing_requests": 10, "upscale_delay_seconds": 20.0}


def test_more_are_wanted_only_after_the_load_has_lasted() -> None:
    look, busy = Looking(), served([35.0], **SCALED)
    assert look.on(busy, 20) == []
    assert look.on(served([5.0], **SCALED)) == [], "a moment of less starts the time anew"
    assert look.on(busy, 20) == []
    assert look.on(busy, 20) == [(4, "scaled")]


def test_no_more_than_the_most_and_no_fewer_than_the_least() -> None:
    assert Looking().on(served([999.0], **SCALED), 60) == [(4, "scaled")]
    calm = served([0.0] * 4, num_wanted=4, min_replicas=2, **SCALED)
    assert Looking().on(calm, 280) == []
    assert Looking().on(calm, 400) == [(2, "scaled")]


def test_fewer_are_wanted_only_when_fewer_were_enough_all_the_time() -> None:
    look, calm = Looking(), served([6.0, 6.0, 6.0], num_wanted=3, **SCALED)
    assert look.on(calm, 200) == []
    assert look.on(served([9.0, 9.0, 9.0], num_wanted=3, **SCALED)) == [], "three were needed"
    assert look.on(calm, 290) == []
    assert look.on(calm, 100) == [(2, "scaled")]


def test_a_load_that_swings_faster_than_the_delays_changes_nothing() -> None:
    look = Looking()
    for _ in range(60):
        assert look.on(served([18.0], **SCALED), 10) == look.on(served([2.0], **SCALED), 10) == []


def test_nobody_asking_for_long_stops_all_and_a_request_starts_the_time_anew() -> None:
    look, quiet = Looking(), served([0.0], idle_timeout_seconds=60)
    assert look.on(quiet, 55) == []
    asked = replace(quiet, asked_at=NOW + timedelta(seconds=1))
    assert look.on(asked, 60) == []
    assert look.on(asked) == [(0, "idle")]
    assert look.on(replace(asked, num_wanted=0), 600) == []


def test_one_that_still_answers_is_not_idle() -> None:
    assert Looking().on(served([1.0], idle_timeout_seconds=60), 600) == []


def test_a_new_number_is_left_alone_while_the_spec_changes() -> None:
    changing = replace(served([99.0], **SCALED), rollout={"status": "running"})
    assert Looking().on(changing, 600) == []


def test_what_is_woken_and_what_a_user_says_is_within_the_limits() -> None:
    spec = served([], **SCALED, min_replicas=2).spec
    assert scaling.woken(spec) == 2
    assert scaling.woken(served([], idle_timeout_seconds=60, replicas=3).spec) is None
    before = served([], num_wanted=3, **SCALED)
    assert scaling.resized(before, before.spec) == 3
    assert scaling.resized(before, before.spec | {"replicas": 2}) == 2
    assert scaling.resized(before, before.spec | {"max_replicas": None}) is None
    asleep = served([], num_wanted=0, idle_timeout_seconds=60)
    assert scaling.resized(asleep, asleep.spec | {"dtype": "float32"}) == 0
    assert scaling.resized(asleep, asleep.spec | {"replicas": 2}) is None


@pytest.mark.parametrize(
    ("given", "field", "why"),
    [
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas", "above max_replicas 2"),
        ({"min_replicas": 2}, "min_replicas", "without max_replicas"),
        ({"min_replicas": 0, "max_replicas": 2}, "min_replicas", "idle_timeout_seconds"),
        ({"min_replicas": 1, "max_replicas": 2, "idle_timeout_seconds": 9}, "idle_timeout_seconds", "no effect"),
        ({"replicas": 3, "max_replicas": 2}, "replicas", "above max_replicas 2"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(given: dict[str, Any], field: str, why: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        schema.load(DeploySpec, {"model": "smol", **given})
    assert [(found.field, why in found.message) for found in error.value.complaints] == [(field, True)]
