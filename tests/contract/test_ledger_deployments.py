"""Deployments and their replicas: desired and actual, the lease of a replica, scaling, changing, stopping."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import Conflict, LeaseLost, NotFound
from shared.records import Deployment, NewModel
from shared.store import Store
from shared.store.replicas import MAX_FAILURES
from tests.contract.claiming import answering, claimed, ready
from tests.contract.racing import in_threads


def deploy(store: Store, project: str, name: str = "bot", **spec: Any) -> Deployment:
    return store.deployments.create(project, name=name, model_name="smol", spec={"model": "smol", **spec})


def change(store: Store, project: str, **spec: Any) -> Deployment:
    return store.deployments.update(project, store.deployments.get(project, "bot"), {"model": "smol", **spec})


def test_a_deployment_starts_with_its_replicas_pending(store: Store, project: str) -> None:
    made = deploy(store, project, replicas=2)

    assert made.id.startswith("dep-") and made.status == "pending"
    assert [(replica.ordinal, replica.status, replica.served_name) for replica in made.replicas] == [
        (0, "pending", "smol"),
        (1, "pending", "smol"),
    ]
    assert store.deployments.get(project, "bot") == store.deployments.get(project, made.id) == made
    assert store.deployments.list(project) == [made]


def test_replicas_are_claimed_once_each(store: Store, project: str) -> None:
    deploy(store, project, replicas=3)

    got = in_threads(6, lambda number: store.replicas.claim_next(f"w{number}", "store-1"))

    found = [replica for replica in got if replica]
    assert sorted(replica.ordinal for replica in found) == [0, 1, 2]
    assert {(replica.status, replica.attempt, replica.spec["model"]) for replica in found} == {("starting", 1, "smol")}
    assert {held.replica_id for held in store.replicas.held()} == {replica.id for replica in found}


def test_a_ready_replica_is_seen_by_gateways(store: Store, project: str, other_project: str) -> None:
    deploy(store, project)
    replica = claimed(store)
    assert store.deployments.get(project, "bot").status == "starting"
    assert answering(store, project) == []

    wanted = store.replicas.renew(
        replica.id, replica.attempt, status="ready", url="http://127.0.0.1:9", api_key="secret-key", load=1.5
    )

    assert wanted == "running"
    [seen] = answering(store, project)
    assert (seen.url, seen.api_key, seen.load, seen.model_name) == ("http://127.0.0.1:9", "secret-key", 1.5, "smol")
    assert (seen.deployment_name, seen.beat) == ("bot", 1)
    assert "secret-key" not in repr(seen)
    assert store.deployments.get(project, "bot").status == "ready"
    assert answering(store, other_project) == [] and answering(store) == [seen]


def test_a_lost_replica_is_started_by_another_worker(store: Store, project: str) -> None:
    deploy(store, project)
    replica = ready(store)
    [held] = store.replicas.held()
    assert held == (replica.id, 1, 1, "w1")

    lost = store.replicas.reclaim(replica.id, held.attempt, held.beat, "worker w1 was silent")

    assert (lost.status, lost.worker_id, lost.url, lost.api_key) == ("pending", None, None, None)
    assert lost.error == "worker w1 was silent"
    assert answering(store, project) == []
    assert claimed(store, "w2").attempt == 2
    with pytest.raises(LeaseLost):
        store.replicas.renew(replica.id, 1, status="ready")
    with pytest.raises(LeaseLost):
        store.replicas.release(replica.id, 1)


def test_a_reclaim_spares_a_replica_whose_beat_moved_on(store: Store, project: str) -> None:
    deploy(store, project)
    replica = claimed(store)
    [held] = store.replicas.held()
    store.replicas.renew(replica.id, replica.attempt)

    with pytest.raises(LeaseLost):
        store.replicas.reclaim(replica.id, held.attempt, held.beat, "seemed silent")


def test_a_replica_that_failed_stays_with_its_worker(store: Store, project: str) -> None:
    deploy(store, project)
    replica = claimed(store)

    store.replicas.renew(replica.id, replica.attempt, status="failed", error="no memory", log_tail="x" * 99_999)

    failed = store.deployments.get(project, "bot")
    assert (failed.status, failed.replicas[0].error) == ("failed", "no memory")
    assert len(failed.replicas[0].log_tail or "") < 99_999
    assert store.replicas.claim_next("w2") is None
    assert [held.replica_id for held in store.replicas.held()] == [replica.id]
    store.replicas.renew(replica.id, replica.attempt, status="starting")
    assert store.deployments.get(project, "bot").status == "starting"
    store.replicas.renew(replica.id, replica.attempt, status="ready")
    assert store.deployments.get(project, "bot").replicas[0].error is None


def test_a_replica_that_is_given_up_again_and_again_is_left_failed(store: Store, project: str) -> None:
    deploy(store, project)
    for _ in range(MAX_FAILURES):
        replica = claimed(store)
        left = store.replicas.release(replica.id, replica.attempt, error="no memory")

    assert (left.status, left.num_failures, left.error) == ("failed", MAX_FAILURES, "no memory")
    assert store.replicas.claim_next("w1") is None
    assert store.deployments.get(project, "bot").status == "failed"

    changed = change(store, project, dtype="bfloat16")

    assert changed.status == "pending" and changed.replicas[0].num_failures == 0
    assert claimed(store).spec["dtype"] == "bfloat16"


def test_a_deleted_deployment_stops_what_runs(store: Store, project: str) -> None:
    made = deploy(store, project, replicas=2)
    replica = ready(store)

    deleted = store.deployments.delete(project, "bot")

    assert deleted.status == "stopping"
    assert [one.status for one in deleted.replicas] == ["ready", "stopped"]
    assert answering(store, project) == [] and store.replicas.claim_next("w2") is None
    assert store.replicas.renew(replica.id, replica.attempt, status="stopping") == "stopped"
    assert store.deployments.list(project)[0].status == "stopping"
    assert store.replicas.release(replica.id, replica.attempt).status == "stopped"
    assert store.deployments.list(project) == []
    assert [one.id for one in store.deployments.list(project, stopped=True)] == [made.id]
    assert store.deployments.get(project, made.id).status == "stopped"
    with pytest.raises(NotFound):
        store.deployments.get(project, "bot")


def test_a_deployments_name_is_free_again_once_it_was_stopped(store: Store, project: str) -> None:
    first = deploy(store, project)
    with pytest.raises(Conflict):
        deploy(store, project)
    store.deployments.delete(project, "bot")

    second = deploy(store, project)

    assert second.id != first.id
    assert store.deployments.get(project, "bot").id == second.id
    with pytest.raises(Conflict):
        store.deployments.update(project, first, {"model": "smol"})


def test_one_of_many_deployments_of_one_name_comes_to_be(store: Store, project: str) -> None:
    def make(_: int) -> str:
        try:
            return deploy(store, project).id
        except Conflict:
            return "conflict"

    assert in_threads(5, make).count("conflict") == 4


def test_scaling_touches_only_the_replicas_it_must(store: Store, project: str) -> None:
    deploy(store, project, replicas=2)
    first, second = ready(store), ready(store)

    more = change(store, project, replicas=3)
    assert [replica.status for replica in more.replicas] == ["ready", "ready", "pending"]
    assert store.replicas.renew(first.id, first.attempt) == "running"

    change(store, project, replicas=1)
    assert store.replicas.renew(first.id, first.attempt) == "running"
    assert store.replicas.renew(second.id, second.attempt) == "stopped"
    assert store.replicas.release(second.id, second.attempt).status == "stopped"

    again = change(store, project, replicas=2)
    assert [replica.status for replica in again.replicas] == ["ready", "pending", "stopped"]


def test_a_worker_that_shuts_down_hands_its_replica_on(store: Store, project: str) -> None:
    deploy(store, project)
    replica = ready(store)

    released = store.replicas.release(replica.id, replica.attempt)

    assert (released.status, released.num_failures, released.url) == ("pending", 0, None)


def test_replicas_are_listed_by_deployment(store: Store, project: str, other_project: str) -> None:
    one = deploy(store, project, replicas=2)
    deploy(store, other_project)

    assert [replica.id for replica in store.replicas.list(project, one.id)] == [r.id for r in one.replicas]
    assert store.replicas.list(other_project, one.id) == []
    assert len(store.replicas.list()) == 3


def test_models_of_formats_that_another_machine_serves_are_left_to_it(store: Store, project: str) -> None:
    files: dict[str, Any] = {"kind": "quantized", "uri": "store://m", "digest": "d", "size_bytes": 1}
    for name, format in (("smol", "fp8"), ("plain", "w8a8")):
        store.models.create(project, NewModel(name=name, format=format, **files))
    deploy(store, project)
    store.deployments.create(project, name="other", model_name="plain", spec={"model": "plain"})

    first, second = (store.replicas.claim_next("cpu", "store-1", ["fp8"]) for _ in range(2))

    assert first is not None and (first.model_name, second) == ("plain", None)
    left = store.replicas.claim_next("gpu", "store-1", ["w8a8"])
    assert left is not None and left.model_name == "smol"
