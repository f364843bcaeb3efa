"""Who may do what, asked of every route that there is: a new one is in these tests by itself."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.auth import PUBLIC
from shared.job import Kind, Status
from shared.records import NewEvaluation
from tests.platform import ROWS, Platform, jsonl, make_platform

#: What may be seen of the platform by every key: it belongs to no project.
SHARED = {"/metrics", "/v1/workers", "/v1/parameters", "/v1/templates"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = make_platform(tmp_path_factory.mktemp("rights"))
    made.post("/v1/models", {"name": "mine", "model_name_or_path": "tiny"})
    data = {"file": (io.BytesIO(jsonl(ROWS)), "mine.jsonl")}
    made.client.post("/v1/datasets", data=data, headers=made.headers())
    made.post("/v1/jobs", {"kind": "generate", "model": "mine", "dataset": "mine"})
    made.post("/v1/jobs", {"model": "mine", "dataset": "mine"})
    run_to_its_end(made)
    made.post("/v1/deployments", {"model": "mine"})
    made.post("/v1/routes", {"name": "prod", "targets": [{"model": "mine"}]})
    made.post("/v1/presets", {"name": "calm", "parameters": {"temperature": 0.1}})
    return made


def run_to_its_end(platform: Platform) -> None:
    """The job as its worker would leave it: with a checkpoint and what was measured."""
    attempts = platform.store.attempts
    claim = attempts.claim_next(worker_id="w", kinds=[Kind.TRAIN], num_devices=1)
    assert claim is not None
    made = {"step": 1, "uri": platform.artifacts.uri("checkpoint"), "digest": "d", "size_bytes": 1}
    attempts.add_checkpoint(claim.job.id, claim.attempt, **made)
    measured = NewEvaluation(model_name="mine", dataset="mine", num_samples=1, metrics={"loss": 1.0}, spec={})
    attempts.finish(claim.job.id, claim.attempt, status=Status.SUCCEEDED, evaluations=[measured])


def routes(platform: Platform) -> Iterator[tuple[str, str, set[str]]]:
    """Method, rule and arguments of every route that needs a key."""
    for rule in platform.app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            if rule.endpoint not in PUBLIC:
                yield method, rule.rule, rule.arguments


def ids(platform: Platform) -> dict[str, str]:
    """The id of the first project's record in every collection."""
    collections = ("/v1/jobs", "/v1/fine_tuning/jobs", "/v1/datasets", "/v1/files", "/v1/models")
    served = ("/v1/deployments", "/v1/routes", "/v1/presets", "/v1/batches")
    found = {
        path: platform.get(path).get_json()["data"][0]["id"] for path in (*collections, *served, "/v1/evaluations")
    }
    checkpoints = f"/v1/jobs/{found['/v1/jobs']}/checkpoints"
    files = f"/v1/models/{found['/v1/models']}/files"
    return found | {path: platform.get(path).get_json()["data"][0]["id"] for path in (checkpoints, files)}


def filled(rule: str, known: dict[str, str]) -> str:
    """The route with the ids of records that are there."""
    while "/<" in rule:
        collection, _, rest = rule.partition("/<")
        rule = f"{collection}/{known[collection]}{rest.partition('>')[2]}"
    return rule


def test_a_viewer_may_only_read(platform: Platform) -> None:
    known = ids(platform)
    asked = 0
    for method, rule, arguments in routes(platform):
        path = filled(rule, known) if arguments else rule
        if method != "GET":
            answer = platform.client.open(path, method=method, headers=platform.headers("viewer"))
            assert (answer.status_code, answer.get_json()["error"]["code"]) == (403, "permission_denied"), (
                method,
                rule,
            )
            asked += 1
        elif not rule.endswith(("/stream", "/difference")):  # the one never ends, the other needs two
            assert platform.get(path, role="viewer").status_code == 200, rule
    assert asked >= 15


def test_nothing_of_a_project_is_reached_with_the_key_of_another(platform: Platform) -> None:
    known = ids(platform)
    _, secret = platform.store.keys.create(platform.store.projects.create("other").id, "other", "admin")
    headers = {"Authorization": f"Bearer {secret}"}
    for method, rule, arguments in routes(platform):
        if arguments and (method, rule) != ("PUT", "/v1/presets/<path:name>"):  # makes one of the other's own
            answer = platform.client.open(filled(rule, known), method=method, headers=headers)
            assert answer.status_code == 404, (method, rule)
            assert answer.get_json()["error"]["type"] == "not_found_error"
        elif method == "GET" and rule not in SHARED:
            assert platform.client.get(rule, headers=headers).get_json()["data"] == [], rule
    assert ids(platform) == known


def test_a_job_cannot_name_what_is_another_projects(platform: Platform) -> None:
    known = ids(platform)
    _, secret = platform.store.keys.create(platform.store.projects.create("third").id, "third", "admin")
    headers = {"Authorization": f"Bearer {secret}"}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/jobs", {"model": "mine", "dataset": known["/v1/datasets"]}),
        ("/v1/fine_tuning/jobs", {"model": "mine", "training_file": known["/v1/files"]}),
        ("/v1/deployments", {"model": "mine"}),
    ]
    for path, body in bodies:
        assert platform.client.post(path, json=body, headers=headers).status_code == 422
    chat = {"model": "mine", "messages": [{"role": "user", "content": "Hello"}]}
    assert platform.client.post("/v1/chat/completions", json=chat, headers=headers).status_code == 404


def test_a_user_does_not_remove_a_base_model(platform: Platform) -> None:
    answer = platform.client.delete("/v1/models/mine", headers=platform.headers("user"))
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (403, "permission_denied")


def test_the_description_names_every_error_and_nothing_from_elsewhere(platform: Platform) -> None:
    described = platform.client.get("/openapi.json").get_json()
    assert list(described["components"]["responses"]) == ["Problem"]
    page = platform.client.get("/docs")
    assert "http://" not in page.text and "https://" not in page.text
    for path in ("/", "/docs"):
        assert "default-src 'self'" in platform.client.get(path).headers["Content-Security-Policy"]
