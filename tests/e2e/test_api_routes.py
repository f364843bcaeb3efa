"""Routes through the API: names that stand for deployments, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.platform import Platform, make_platform


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = make_platform(tmp_path_factory.mktemp("routes"))
    write = made.post("/v1/models", {"name": "tiny", "model_name_or_path": "tiny"})
    assert write.status_code == 201
    for name in ("blue", "green"):
        assert made.post("/v1/deployments", {"model": "tiny", "name": name}).status_code == 201
    return made


def put(platform: Platform, name: str, body: Any) -> Any:
    return platform.client.put(f"/v1/routes/{name}", json=body, headers=platform.headers())


def test_a_route_is_made_pointed_elsewhere_and_deleted(platform: Platform) -> None:
    targets = [{"model": "blue", "weight": 3}, {"model": "green"}]
    made = platform.post("/v1/routes", {"name": "prod", "targets": targets})
    assert made.status_code == 201
    shares = [(target["deployment"], target["share"], target["num_ready"]) for target in made.get_json()["targets"]]
    assert shares == [("blue", 0.75, 0), ("green", 0.25, 0)]
    assert put(platform, "prod", {"targets": [{"model": "green"}]}).status_code == 200
    [listed] = platform.get("/v1/routes").get_json()["data"]
    assert listed == platform.get("/v1/routes/prod").get_json() and len(listed["targets"]) == 1
    asked = platform.post("/v1/chat/completions", {"model": "prod", "messages": [{"role": "user", "content": "hi"}]})
    assert asked.status_code == 503 and "green" in asked.get_json()["error"]["message"]
    assert platform.client.delete("/v1/routes/prod", headers=platform.headers()).status_code == 200
    assert [platform.get("/v1/routes/prod").status_code, put(platform, "prod", {}).status_code] == [404, 404]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"targets": [{"model": "blue"}]}, "name"),
        ({"name": " prod", "targets": [{"model": "blue"}]}, "name"),
        ({"name": "prod"}, "targets"),
        ({"name": "prod", "targets": []}, "targets"),
        ({"name": "prod", "targets": [{"model": "blue", "weight": 0}]}, "targets"),
        ({"name": "prod", "targets": ["blue"]}, "targets.0"),
        ({"name": "prod", "targets": [{"model": "blue", "wieght": 1}]}, "targets.0"),
        ({"name": "prod", "targets": [{"model": "blue"}, {"model": "green", "weight": -1}]}, "targets.1.weight"),
        ({"name": "prod", "targets": [{"model": "blue", "weight": True}]}, "targets.0.weight"),
        ({"name": "prod", "targets": [{"model": "bleu"}]}, "targets.0.model"),
        ({"name": "prod", "targets": [{"model": "loop"}]}, "targets.0.model"),
        ({"name": "prod", "targets": [{"model": "blue"}], "target": 1}, "target"),
    ],
)
def test_what_cannot_be_a_route_is_refused_under_its_field(platform: Platform, body: Any, field: str) -> None:
    platform.post("/v1/routes", {"name": "loop", "targets": [{"model": "blue"}]})
    refused = platform.post("/v1/routes", body)
    assert refused.status_code == 422, refused.get_json()
    assert [issue["field"] for issue in refused.get_json()["error"]["issues"]] == [field]
    assert [route["name"] for route in platform.get("/v1/routes").get_json()["data"]] == ["loop"]


def test_a_route_does_not_take_the_name_of_a_deployment_nor_a_deployment_that_of_a_route(platform: Platform) -> None:
    assert platform.post("/v1/routes", {"name": "blue", "targets": [{"model": "green"}]}).status_code == 409
    platform.post("/v1/routes", {"name": "live", "targets": [{"model": "green"}]})
    refused = platform.post("/v1/deployments", {"model": "tiny", "name": "live"})
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (409, "name")


def test_every_name_that_may_be_asked_is_a_model_to_clients_and_is_listed_once(platform: Platform) -> None:
    platform.client.patch("/v1/models/tiny", json={"aliases": ["live"]}, headers=platform.headers())
    platform.post("/v1/routes", {"name": "shared", "targets": [{"model": "blue"}, {"model": "green", "weight": 2}]})
    data = platform.get("/v1/models", role="viewer").get_json()["data"]
    listed = {model["id"]: model for model in data}

    assert len(listed) == len(data)
    told = {name: (listed[name]["kind"], listed[name]["root"], listed[name]["in_catalog"]) for name in listed}
    assert told | {
        "tiny": ("base", "tiny", True), "blue": ("deployment", "tiny", False), "green": ("deployment", "tiny", False),
        "shared": ("route", "tiny", False), "tiny@live": ("alias", "tiny", False),
    } == told  # fmt: skip
    assert listed["shared"]["served_by"] == ["blue", "green"]
    # No worker runs: nothing answers, and it is said.
    assert {(listed[name]["status"], listed[name]["answers"]) for name in ("blue", "shared")} == {("pending", False)}
    assert platform.get("/v1/models?answers=true").get_json()["data"] == []
    assert [model["id"] for model in platform.get("/v1/models?in_catalog=true").get_json()["data"]] == ["tiny"]
    for name, entry in listed.items():
        # An alias is looked at as the version that it means.
        expected = listed["tiny"] if entry["kind"] == "alias" else entry
        assert platform.get(f"/v1/models/{name}", role="viewer").get_json().items() >= expected.items()
    assert platform.get("/v1/models/blu").status_code == 404
    refused = platform.client.delete("/v1/models/blue", headers=platform.headers())
    assert refused.status_code == 404 and "/v1/deployments/blue" in refused.get_json()["error"]["message"]
    assert platform.get("/v1/models?answers=maybe").status_code == 422
