"""Updates of deployments: new replicas beside the old, failures taken back, idle ones woken, races, events."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from shared.errors import Conflict, LeaseLost, NotFound
from shared.records import Deployment, NewEvent, NewModel, Replica
from shared.store import Store
from shared.tongues import Text
from tests.contract.claiming import answering, claimed, ready
from tests.contract.racing import in_threads


def deploy(store: Store, project: str, **spec: Any) -> Deployment:
    return store.deployments.create(project, name="bot", model_name="smol", spec={"model": "smol", **spec})


def change(store: Store, project: str, model: str = "smol", **spec: Any) -> Deployment:
    seen = store.deployments.get(project, "bot")
    return store.deployments.update(project, seen, {"model": model, **spec}, model)


def fail(store: Store, replica: Replica, error: str = "no memory") -> str:
    return store.replicas.renew(replica.id, replica.attempt, status="failed", error=error)


def renewed(store: Store, replica: Replica) -> str:
    return store.replicas.renew(replica.id, replica.attempt)


def types(store: Store, deployment: Deployment) -> list[str]:
    return [event.type for event in store.deployment_events.list(deployment.project_id, deployment.id)]


def test_a_replica_of_another_spec_comes_up_beside_the_old_and_then_takes_its_place(store: Store, project: str) -> None:
    made = deploy(store, project)
    old = ready(store)

    updating = change(store, project, dtype="float32")

    assert updating.status == "ready" and updating.rollout is not None
    assert (updating.rollout["status"], updating.rollout["changed"]) == ("running", {"dtype": [None, "float32"]})
    assert renewed(store, old) == "running"
    new = claimed(store)
    assert (new.generation, new.spec["dtype"], old.spec.get("dtype")) == (2, "float32", None)
    assert renewed(store, old) == "running"

    store.replicas.renew(new.id, new.attempt, status="ready", url="http://127.0.0.1:8")

    assert [replica.id for replica in answering(store, project)] == [new.id]
    assert renewed(store, old) == "stopped" and renewed(store, new) == "running"
    store.replicas.release(old.id, old.attempt)
    done = store.deployments.get(project, "bot")
    assert done.rollout is not None and done.rollout["status"] == "done" and "before" not in done.rollout
    assert types(store, made)[-4:] == ["updating", "starting", "stopped", "updated"]


def test_replicas_are_exchanged_one_by_one_and_as_many_answer_as_before(store: Store, project: str) -> None:
    deploy(store, project, replicas=2)
    held = [ready(store), ready(store)]
    change(store, project, replicas=2, dtype="float32")

    for _ in range(2):
        new = claimed(store)
        assert store.replicas.claim_next("w2") is None
        assert len(answering(store, project)) == 2
        store.replicas.renew(new.id, new.attempt, status="ready", url="http://127.0.0.1:8")
        assert len(answering(store, project)) == 2
        [gone] = [one for one in held if renewed(store, one) == "stopped"]
        held.remove(gone)
        store.replicas.release(gone.id, gone.attempt)

    assert {one.generation for one in answering(store, project)} == {2}
    assert (store.deployments.get(project, "bot").rollout or {})["status"] == "done"


def test_a_generation_that_fails_is_taken_back_and_the_old_goes_on(store: Store, project: str) -> None:
    made = deploy(store, project, replicas=2)
    old = [ready(store), ready(store)]
    change(store, project, replicas=2, model="other", dtype="float32")
    first = claimed(store)
    store.replicas.renew(first.id, first.attempt, status="ready", url="http://127.0.0.1:8")
    [drained] = [one for one in old if renewed(store, one) == "stopped"]
    second = claimed(store)

    assert fail(store, second) == "stopped"

    back = store.deployments.get(project, "bot")
    assert (back.generation, back.model_name, back.spec.get("dtype")) == (1, "smol", None)
    assert back.rollout is not None
    assert (back.rollout["status"], back.rollout["error"]) == ("rolled_back", "no memory")
    assert renewed(store, first) == "running", "it answers until one of the old spec is there again"
    store.replicas.release(drained.id, drained.attempt)
    again = ready(store)
    assert (again.generation, again.model_name) == (1, "smol")
    assert renewed(store, first) == "stopped"
    assert {one.generation for one in answering(store, project)} == {1}
    event = next(one for one in store.deployment_events.list(project, made.id) if one.type == "rolled_back")
    assert event.level == "error" and "no memory" in event.message and "no memory" in event.data["zh"]["message"]

    store.replicas.release(second.id, second.attempt)
    assert change(store, project, replicas=2, dtype="bfloat16").generation == 3


def test_stop_first_drains_before_it_starts_and_a_failure_brings_the_old_spec_back(store: Store, project: str) -> None:
    deploy(store, project)
    old = ready(store)
    change(store, project, dtype="float32", update_order="stop-first")
    assert renewed(store, old) == "stopped" and store.replicas.claim_next("w2") is None

    store.replicas.release(old.id, old.attempt)
    new = claimed(store)
    assert new.generation == 2 and fail(store, new) == "stopped"
    store.replicas.release(new.id, new.attempt)

    assert ready(store).generation == 1
    assert (store.deployments.get(project, "bot").rollout or {})["status"] == "rolled_back"


def test_a_failing_deployment_is_replaced_at_once(store: Store, project: str) -> None:
    deploy(store, project)
    old = claimed(store)
    fail(store, old)

    changed = change(store, project, dtype="float32")

    assert renewed(store, old) == "stopped" and changed.rollout is None
    assert claimed(store).spec["dtype"] == "float32"


def test_a_change_that_no_replica_reads_starts_none_anew(store: Store, project: str) -> None:
    deploy(store, project)
    replica = ready(store)

    changed = change(store, project, idle_timeout_seconds=60.0)

    assert (changed.generation, changed.rollout, renewed(store, replica)) == (1, None, "running")


def test_the_adapters_of_the_old_are_loaded_before_it_goes(store: Store, project: str) -> None:
    deploy(store, project)
    old = ready(store)
    store.replicas.renew(old.id, old.attempt, adapters=["ft:one"])
    change(store, project, dtype="float32")
    new = ready(store)
    assert renewed(store, old) == "running"

    store.replicas.renew(new.id, new.attempt, adapters=["ft:one"], events=[NewEvent(type="loaded", message=Text("x"))])

    assert renewed(store, old) == "stopped"


def test_who_changes_what_has_changed_meanwhile_is_told(store: Store, project: str) -> None:
    seen = deploy(store, project)
    change(store, project, dtype="float32")

    with pytest.raises(Conflict, match="changed meanwhile"):
        store.deployments.update(project, seen, {"model": "smol", "dtype": "bfloat16"})


def test_a_model_that_serves_until_the_next_one_does_is_not_deleted(store: Store, project: str) -> None:
    files: dict[str, Any] = {"kind": "base", "uri": "store://m", "digest": "d", "size_bytes": 1, "format": "x"}
    store.models.create(project, NewModel(name="smol", **files))
    deploy(store, project)
    ready(store)
    change(store, project, model="other")

    with pytest.raises(Conflict, match="bot"):
        store.models.delete(project, "smol")


def test_an_idle_deployment_is_woken_by_a_request_once(store: Store, project: str, other_project: str) -> None:
    made = deploy(store, project, idle_timeout_seconds=60.0)
    replica = ready(store)
    assert store.deployments.asked(project, made.id) is False
    assert store.deployments.get(project, "bot").asked_at is not None
    why = Text("No request for {seconds} s: its replicas are stopped", seconds=60)
    assert store.deployments.rescale(made.id, before=None, num_wanted=0, type="idle", why=why)
    assert renewed(store, replica) == "stopped"
    store.replicas.release(replica.id, replica.attempt)
    assert store.deployments.get(project, "bot").status == "idle"
    assert store.deployments.asked(other_project, made.id) is False

    woken = in_threads(4, lambda _: store.deployments.asked(project, made.id))

    assert woken.count(True) == 1
    assert store.deployments.get(project, "bot").status == "pending"
    assert claimed(store).attempt == 2
    assert not store.deployments.rescale(made.id, before=0, num_wanted=0, type="idle", why=why), "woken meanwhile"
    assert types(store, made)[-4:] == ["idle", "stopped", "woken", "starting"]


def test_events_are_numbered_paged_and_only_the_projects_own(store: Store, project: str, other_project: str) -> None:
    made = deploy(store, project)
    replica = claimed(store)
    told = NewEvent(type="failed", level="error", message="no memory", data={"log_tail": "the end"})
    store.replicas.renew(replica.id, replica.attempt, status="failed", error="no memory", events=[told])
    store.replicas.reclaim(replica.id, 1, 1, "worker w1 was silent for 31 s")
    store.deployments.delete(project, "bot")

    events = store.deployment_events.list(project, made.id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert types(store, made) == ["created", "starting", "failed", "lost", "pending", "deleted"]
    assert (events[2].level, events[2].data["log_tail"], events[2].replica_id) == ("error", "the end", replica.id)
    assert "w1" in events[3].message and events[3].data["zh"]
    assert store.deployment_events.list(project, made.id, after=2, limit=2) == events[2:4]
    assert store.deployment_events.list(project, made.id, newest_first=True, limit=2) == events[:-3:-1]
    with pytest.raises(NotFound):
        store.deployment_events.list(other_project, made.id)

    live = store.deployments.create(project, name="other", model_name="smol", spec={"model": "smol"})
    assert store.deployment_events.expire(events[-1].created_at) == len(events) - 1
    assert len(store.deployment_events.list(project, live.id)) == 1, "that of a deployment which runs is kept"


def test_racing_workers_heartbeats_updates_and_losses_leave_each_replica_one_holder(store: Store, project: str) -> None:
    """Every kind of transaction that touches replicas at once: none deadlocks, and no two hold the same attempt."""
    deploy(store, project, replicas=4)
    claims: list[tuple[str, int]] = []
    stop = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            for length in range(4):
                change(store, project, replicas=4, max_model_len=1000 + length)
            stop.set()
            return 0
        lost = 0
        while not stop.is_set() or lost < 3:
            replica = store.replicas.claim_next(f"w{number}", "store-1")
            if replica is None:
                if stop.is_set():
                    break
                continue
            claims.append((replica.id, replica.attempt))
            try:
                store.replicas.renew(replica.id, replica.attempt, status="ready", url="http://127.0.0.1:9")
                if number % 2:
                    store.replicas.reclaim(replica.id, replica.attempt, 1, "worker was silent")
                else:
                    store.replicas.release(replica.id, replica.attempt)
            except LeaseLost:
                pytest.fail("nobody else may have the attempt")
            lost += 1
        return lost

    assert sum(in_threads(6, work)) == len(claims) >= 3
    assert len(set(claims)) == len(claims), "each attempt has one holder"
    live = [one for one in store.deployments.get(project, "bot").replicas if one.wanted == "running"]
    assert len(live) == 4 and all(one.worker_id is None for one in live)
