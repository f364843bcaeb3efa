"""Attempts of several workers: all nodes are reserved at once or none is, and the loss of one is known to all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.errors import LeaseLost
from shared.job import Job, Kind, Status
from shared.member import Member
from shared.records import Claim
from shared.store import Store
from shared.store.backfill import PATIENCE_SECONDS
from tests.contract.ageing import grow_old
from tests.contract.racing import in_processes, in_threads, lead_once

NewJob = Callable[..., Job]
Look = Callable[..., Claim | None]
PAIR = {"num_devices": 1, "num_nodes": 2}
TAKEN = {"id": "cpu", "held_by": {"id": "ftjob-other"}}


@pytest.fixture
def idle(store: Store) -> Callable[..., None]:
    """Make workers report themselves, with a free CPU each unless told otherwise."""

    def report(*names: str, **given: object) -> None:
        told = {"kinds": ["train"], "host": "h", "devices": ["cpu"], "storage_id": "store-1", "version": "1"}
        told |= {"address": "127.0.0.1"}
        for name in names:
            store.workers.beat(name, **{**told, **given})  # type: ignore[arg-type]

    return report


def seat(store: Store, worker_id: str) -> Member:
    reserved = store.members.reservation(worker_id)
    assert reserved is not None
    return reserved[1]


def test_a_claim_reserves_the_other_nodes_and_they_claim_nothing_else(
    store: Store, new_job: NewJob, claim: Look, idle: Callable[..., None]
) -> None:
    job, other = new_job(requires=PAIR, secrets={"hf_hub_token": "s3cret"}), new_job()
    idle("w1", "w2", "w3")

    got = claim(worker_id="w1")

    assert got is not None and got.job.id == job.id
    assert [(m.node_rank, m.worker_id, m.status) for m in store.members.of(job.id, 1)] == [
        (0, "w1", "leading"),
        (1, "w2", "reserved"),
    ]
    reserved = store.members.reservation("w2")
    assert reserved is not None and reserved[0].job.id == job.id and reserved[0].secrets == {"hf_hub_token": "s3cret"}
    assert claim(worker_id="w2") is None
    free = claim(worker_id="w3")
    assert free is not None and free.job.id == other.id
    assert store.members.of(other.id, 1) == []


@pytest.mark.parametrize(
    "other",
    [{"storage_id": "store-2"}, {"kinds": ["export"]}, {"machine": {"devices": [TAKEN]}}, {"labels": ["eu"]}],
)
def test_too_few_idle_workers_are_said_once_and_block_nobody(
    store: Store, project: str, new_job: NewJob, claim: Look, idle: Callable[..., None], other: dict[str, object]
) -> None:
    labels = {"labels": ["us"]} if "labels" in other else {}
    large, small = new_job(requires=PAIR | labels, priority=9), new_job()
    idle("w1", labels=["us"])
    idle("w2", **{"labels": ["us"], **other})

    got = claim(worker_id="w1", labels=["us"])

    assert got is not None and got.job.id == small.id
    assert claim(worker_id="w3", labels=["us"]) is None and claim(worker_id="w3", labels=["us"]) is None
    waiting = store.jobs.get(project, large.id)
    assert (waiting.status, waiting.attempt) == (Status.QUEUED, 0)
    told = [event.message for event in store.events.list(project, large.id) if event.type == "message"]
    needed = "1 device(s), labelled us" if labels else "1 device(s)"
    assert told == [f"Waiting for 2 idle workers with {needed} each: 1 there"]


def test_a_worker_that_has_a_job_is_not_reserved(new_job: NewJob, claim: Look, idle: Callable[..., None]) -> None:
    idle("w1", "w2")
    new_job()
    assert claim(worker_id="w2") is not None
    new_job(requires=PAIR)

    assert claim(worker_id="w1") is None


def test_leaders_that_race_take_whole_crews(
    store: Store, database_url: str, new_job: NewJob, idle: Callable[..., None]
) -> None:
    names = [f"w{number}" for number in range(4)]
    for _ in range(3):
        idle(*names)
        made = [new_job(requires=PAIR).id for _ in range(2)]

        # All four look, in processes of their own, until every job is led by somebody.
        led = in_processes(lead_once, [(database_url, name) for name in names])

        assert sorted(job_id for job_id in led if job_id) == sorted(made)
        crews = [[member.worker_id for member in store.members.of(job_id, 1)] for job_id in made]
        assert sorted(name for crew in crews for name in crew) == names, "nobody twice, nobody half-reserved"
        for job_id in made:
            store.attempts.finish(job_id, 1, status=Status.SUCCEEDED)


def test_threads_that_race_for_one_pair_leave_the_rest_idle(
    store: Store, new_job: NewJob, claim: Look, idle: Callable[..., None]
) -> None:
    idle("w0", "w1", "w2")
    jobs = [new_job(requires={"num_devices": 1, "num_nodes": 3}).id for _ in range(2)]

    got = [one for one in in_threads(3, lambda number: claim(worker_id=f"w{number}")) if one]
    got = got or [one for one in [claim(worker_id="w0")] if one]  # who was looking could not be reserved

    assert len(got) == 1
    crews = [store.members.of(job_id, 1) for job_id in jobs]
    assert sorted(len(crew) for crew in crews) == [0, 3]


def test_nodes_beat_and_hear_how_the_attempt_stands(
    store: Store, new_job: NewJob, claim: Look, idle: Callable[..., None]
) -> None:
    job = new_job(requires=PAIR)
    idle("w1", "w2")
    assert claim(worker_id="w1") is not None
    node = seat(store, "w2")

    assert store.members.renew(node, "joined") == (0, "leading", "127.0.0.1", None)
    store.attempts.renew(job.id, 1)
    store.members.lead(job.id, 1, "started", port=4711, address="10.0.0.7")
    assert store.members.renew(node, "ready") == (1, "started", "10.0.0.7", 4711)
    [held] = store.members.held()
    assert held == (job.id, 1, 1, 2, "w2")

    store.members.leave(node, "failed", {"code": "child_crashed", "message": "rank 1", "field": None})
    [_, left] = store.members.of(job.id, 1)
    assert (left.status, left.error) == ("failed", {"code": "child_crashed", "message": "rank 1", "field": None})
    assert store.members.held() == [] and store.members.reservation("w2") is None
    with pytest.raises(LeaseLost):
        store.members.renew(node, "ready")


def test_a_lost_node_is_struck_off_and_its_leader_gives_the_job_back(
    store: Store, project: str, new_job: NewJob, claim: Look, idle: Callable[..., None]
) -> None:
    job = new_job(requires=PAIR)
    idle("w1", "w2")
    assert claim(worker_id="w1") is not None
    node = seat(store, "w2")
    [before] = store.members.held()
    store.members.renew(node, "joined")
    with pytest.raises(LeaseLost):
        store.members.lose(before, "silent")
    [held] = store.members.held()

    store.members.lose(held, "worker w2 was silent")

    assert [member.status for member in store.members.of(job.id, 1)] == ["leading", "lost"]
    with pytest.raises(LeaseLost):
        store.members.renew(node, "joined")
    assert [worker.id for worker in store.workers.list()] == ["w1"], "nobody reserves it before it beats again"
    back = store.attempts.reclaim(job.id, 1, None, "worker w2 was silent")
    assert (back.status, back.lost_attempts) == (Status.QUEUED, 1)


def test_with_its_leader_a_crew_is_free(
    store: Store, project: str, new_job: NewJob, claim: Look, idle: Callable[..., None]
) -> None:
    job = new_job(requires=PAIR)
    idle("w1", "w2")
    assert claim(worker_id="w1") is not None
    node = seat(store, "w2")
    store.members.renew(node, "joined")

    store.attempts.reclaim(job.id, 1, 0, "worker w1 was silent")

    with pytest.raises(LeaseLost):
        store.members.renew(node, "joined")
    with pytest.raises(LeaseLost):
        store.members.lead(job.id, 1, "started", port=1)
    assert store.members.reservation("w2") is None and store.members.held() == []
    idle("w1", "w2")
    again = claim(worker_id="w2", kinds=[Kind.TRAIN])
    assert again is not None and again.attempt == 2
    assert [member.worker_id for member in store.members.of(job.id, 2)] == ["w2", "w1"]


@pytest.mark.parametrize("holder", [{"id": "ftjob-other", "kind": "train"}, {"id": "rep-1", "kind": "replica"}])
def test_idle_workers_are_kept_for_a_job_of_several_nodes_that_waited_long(
    store: Store, new_job: NewJob, claim: Look, idle: Callable[..., None], holder: dict[str, str]
) -> None:
    large, small = new_job(requires=PAIR), new_job()
    idle("w1")
    idle("w2", machine={"devices": [{"id": "cpu", "held_by": holder}]})
    grow_old(store, large, PATIENCE_SECONDS + 1)

    got = claim(worker_id="w1")

    if holder["kind"] == "replica":  # which stays: there will be no second node
        assert got is not None and got.job.id == small.id
        return
    assert got is None
    idle("w2")
    got = claim(worker_id="w1")
    assert got is not None and got.job.id == large.id
