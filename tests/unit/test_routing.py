"""Which deployment a name means, and which replicas answer for it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from shared import routing, sharing
from shared.records import Route
from shared.routing import Fleet
from tests.unit.fleet import NOW, deployment, replica

BASE = deployment(
    "tiny",
    [
        replica("a", "http://a", "tiny", adapters=["support-3"]),
        replica("b", "http://b", "tiny"),
        replica("c", "http://c", "tiny", status="starting"),
        replica("d", "http://d", "tiny", wanted="stopped"),
    ],
)
OWN = deployment("bot", [replica("e", "http://e", "bot")], model_name="merged-2")
HOSTED = deployment("helper", model_name="support-3", host_id="dep-tiny")
VERSIONS = {"support@3": "support-3", "support@prod": "support-3", "merged@latest": "merged-2"}


def fleet(**targets: list[tuple[str, float]]) -> Fleet:
    routes = [
        Route(
            name=name, targets=[{"model": m, "weight": w} for m, w in given], created_at=NOW, updated_at=NOW
        )
        for name, given in targets.items()
    ]  # fmt: skip
    return Fleet(deployments=[BASE, OWN, HOSTED], routes=routes)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tiny", BASE), ("bot", OWN), ("merged-2", OWN), ("merged@latest", OWN), ("helper", HOSTED),
        ("support@3", HOSTED), ("support@prod", HOSTED), ("tiny@helper", HOSTED), ("bot@helper", None),
        ("support@9", None), ("nothing", None),
    ],
)  # fmt: skip
def test_a_name_means_a_deployment(name: str, meant: Any) -> None:
    assert routing.find(fleet(), name, VERSIONS.get) == meant


def test_a_route_shares_its_requests_by_weight_among_what_is_deployed() -> None:
    running = fleet(prod=[("helper", 3), ("merged@latest", 1), ("gone", 100), ("tiny", 0)])
    drawn = [routing.find(running, "prod", VERSIONS.get, lambda n=n: n / 100) for n in range(100)]  # type: ignore[misc]
    assert Counter(found.name for found in drawn if found) == {"helper": 75, "bot": 25}
    assert routing.find(fleet(prod=[("gone", 1)]), "prod", VERSIONS.get) is None


def test_requests_of_one_user_stay_with_one_target_and_the_users_are_shared() -> None:
    drawn = [sharing.fraction("prod", f"user-{n}") for n in range(400)]
    assert drawn == [sharing.fraction("prod", f"user-{n}") for n in range(400)]
    assert drawn[0] == pytest.approx(0.49045, abs=1e-4)
    assert sum(one < 0.25 for one in drawn) == pytest.approx(100, abs=20)
    assert sharing.fraction("prod", "\ud800") != sharing.fraction("next", "\ud800")


def test_an_adapter_is_answered_by_the_replicas_that_have_loaded_it_under_its_own_name() -> None:
    found = [routing.endpoints(fleet(), one) for one in (BASE, HOSTED, OWN)]
    assert [[(one.id, one.served_name) for one in those] for those in found] == [
        [("a", "tiny"), ("b", "tiny")], [("a", "support-3")], [("e", "bot")]
    ]  # fmt: skip
