"""Deployments through the API after they were made: changed, taken back, waiting; their events and logs. The ledger is
real, the worker is played."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.serving import make_server

from gateway import cli
from shared import happenings
from shared.records import Replica
from tests.contract.claiming import answering
from tests.platform import Platform, make_platform


@pytest.fixture
def platform(tmp_path: Any) -> Platform:
    made = make_platform(tmp_path)
    for name in ("tiny", "other"):
        assert made.post("/v1/models", {"name": name, "model_name_or_path": "tiny"}).status_code == 201
    assert made.post("/v1/deployments", {"model": "tiny", "vllm_maxlen": 512}).status_code == 201
    return made


def patch(platform: Platform, body: Any, role: str = "admin") -> Any:
    return platform.client.patch("/v1/deployments/tiny", json=body, headers=platform.headers(role))


def look(platform: Platform) -> dict[str, Any]:
    return dict(platform.get("/v1/deployments/tiny").get_json())


def claimed(platform: Platform) -> Replica:
    replica = platform.store.replicas.claim_next("w1")
    assert replica is not None
    return replica


def ready(platform: Platform) -> Replica:
    replica = claimed(platform)
    told = [happenings.ready(replica, 41.27)]
    platform.store.replicas.renew(
        replica.id, replica.attempt, status="ready", url="http://127.0.0.1:9", api_key="not to be told", events=told
    )
    return replica


def failed(platform: Platform, replica: Replica, error: str) -> None:
    told = [happenings.failed(replica, "starting", error, "line 1\nline 2", 2.0)]
    platform.store.replicas.renew(
        replica.id, replica.attempt, status="failed", error=error, log_tail="line 1\nline 2", events=told
    )


def test_the_number_of_replicas_is_changed_and_running_ones_go_on(platform: Platform) -> None:
    first = ready(platform)

    changed = patch(platform, {"replicas": 2}).get_json()

    assert (changed["status"], changed["num_wanted"], changed["generation"]) == ("ready", 2, 1)
    assert [one["status"] for one in changed["replicas"]] == ["ready", "pending"]
    assert changed["replicas"][0]["id"] == first.id and changed["spec"]["max_model_len"] == 512
    assert patch(platform, {"replicas": None}).get_json()["num_wanted"] == 1


def test_a_changed_spec_comes_up_beside_and_one_that_fails_is_taken_back_and_says_why(platform: Platform) -> None:
    old = ready(platform)

    changed = patch(platform, {"vllm_maxlen": 1024, "model": "other"}).get_json()

    assert changed["rollout"]["changed"] == {"max_model_len": [512, 1024], "model": ["tiny", "other"]}
    assert "before" not in changed["rollout"]
    assert (changed["status"], changed["model"], changed["generation"]) == ("ready", "other", 2)
    failed(platform, claimed(platform), "no memory for 1024 tokens")
    back = look(platform)
    assert (back["rollout"]["status"], back["rollout"]["error"]) == ("rolled_back", "no memory for 1024 tokens")
    assert (back["status"], back["model"], back["spec"]["max_model_len"]) == ("ready", "tiny", 512)
    assert [one.id for one in answering(platform.store)] == [old.id]
    assert "not to be told" not in platform.get("/v1/deployments/tiny").get_data(as_text=True)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"max_model_len": 1}, "max_model_len"),
        ({"replicas": "two"}, "replicas"),
        ({"replcas": 2}, "replcas"),
        ({"vllm_maxlen": 64, "max_model_len": 64}, "max_model_len"),
        ({"model": "none"}, "model"),
        ({"name": "else"}, "name"),
        ({"min_replicas": 5, "max_replicas": 2}, "min_replicas"),
        ({"update_order": "both"}, "update_order"),
        ({"gpus": 2}, "gpus"),
    ],
)
def test_a_change_that_cannot_be_is_refused_under_its_field(platform: Platform, body: Any, field: str) -> None:
    refused = patch(platform, body)

    assert refused.status_code == 422
    issues = refused.get_json()["error"]["issues"]
    assert field in [issue["field"] for issue in issues] and all(issue["message_zh"] for issue in issues)
    assert look(platform)["generation"] == 1


def test_who_may_only_look_changes_nothing(platform: Platform) -> None:
    assert patch(platform, {"replicas": 2}, role="viewer").status_code == 403


def test_events_are_paged_both_ways_in_both_tongues_and_logs_are_told(platform: Platform) -> None:
    failed(platform, claimed(platform), "no memory")

    every = platform.get("/v1/deployments/tiny/events").get_json()
    assert [event["type"] for event in every["data"]] == ["created", "starting", "failed"]
    last = every["data"][-1]
    assert (last["level"], last["data"]["log_tail"], last["data"]["retry_seconds"]) == ("error", "line 1\nline 2", 2.0)
    assert "no memory" in last["message"] and "no memory" in last["data"]["zh"]["message"]
    page = platform.get("/v1/deployments/tiny/events?after=1&limit=1").get_json()
    assert (page["data"], page["has_more"]) == (every["data"][1:2], True)
    newest = platform.get("/v1/deployments/tiny/events?order=desc&limit=2").get_json()
    assert (newest["data"], newest["has_more"]) == (every["data"][:0:-1], True)
    assert "failed\nline 1\nline 2\n" in platform.get("/v1/deployments/tiny/log").get_data(as_text=True)
    assert platform.get("/v1/deployments/none/events").status_code == 404


def test_what_a_replica_waits_for_is_told(platform: Platform) -> None:
    def seen(held: str | None, free: bool = True) -> str:
        held_by = None if free else {"id": held, "kind": "train"}
        machine = {"devices": [{"id": name, "held_by": held_by} for name in ("GPU-a", "GPU-b")]}
        platform.store.workers.beat(
            "w1", kinds=["replica"], host="h", devices=["GPU-a", "GPU-b"], storage_id="s", version="1", machine=machine
        )
        return str(look(platform)["waiting"])

    assert "No inference worker" in look(platform)["waiting"] and look(platform)["waiting_zh"]
    assert seen(None) == "None"
    assert "taken" in seen("job-1", free=False)
    patch(platform, {"tensor_parallel_size": 3})
    assert "has 3 GPUs" in seen(None)
    patch(platform, {"tensor_parallel_size": 1, "gpus": ["GPU-c"]})
    assert "GPU-c" in seen(None)


@pytest.fixture
def command_line(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = make_server("127.0.0.1", 0, platform.client.application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TUNESMITH_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("TUNESMITH_API_KEY", platform.keys["admin"])
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("command_line")
def test_the_command_line_scales_updates_and_tells_what_happened(
    platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    ready(platform)

    assert cli.main(["deployments", "scale", "tiny", "2"]) == 0
    assert "2 replica(s) wanted" in capsys.readouterr().out
    ready(platform)
    assert cli.main(["deployments", "update", "tiny", "--vllm-maxlen", "1024", "--replicas", "1"]) == 0
    assert "generation 2 comes up" in capsys.readouterr().out
    assert look(platform)["spec"]["max_model_len"] == 1024
    failed(platform, claimed(platform), "too long")

    assert cli.main(["deployments"]) == 0
    listed = capsys.readouterr().out
    assert "tiny" in listed and "too long" in listed
    assert cli.main(["deployments", "events", "tiny"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "is made" in told[0] and any("41.3 s" in line for line in told) and "too long" in told[-1]
    assert cli.main(["deployments", "log", "tiny"]) == 0
    assert "line 2" in capsys.readouterr().out
    assert cli.main(["deployments", "update", "tiny", "--replicas", "0"]) != 0
