"""Fair share, requirements of cards, and what keeps a large job from waiting for ever."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from shared import requirements
from shared.errors import InvalidJobState
from shared.job import Job, Kind, Status
from shared.lineup import in_order
from shared.records import Claim, NewEvent
from shared.requirements import Device
from shared.store import Store
from shared.store.backfill import PATIENCE_SECONDS
from shared.store.columns import now
from shared.store.shares import HALF_LIFE_SECONDS
from shared.store.tables import attempts, jobs, usage
from tests.contract.ageing import grow_old

NewJob = Callable[..., Job]
Look = Callable[..., Claim | None]

A100 = [Device(id=f"GPU-{number}", kind="NVIDIA A100-SXM4-80GB", memory_gib=79.2) for number in range(4)]
ONE = {"num_devices": 1}
T4 = Device(id="GPU-t4", kind="Tesla T4", memory_gib=14.6)


def finish(store: Store, got: Claim | None, *, after_seconds: float = 0.0) -> str:
    """End the attempt as if it had taken so long."""
    assert got is not None
    with store.database.write() as connection:
        began = update(attempts).where(attempts.c.job_id == got.job.id)
        connection.execute(began.values(started_at=now() - timedelta(seconds=after_seconds)))
    store.attempts.finish(got.job.id, got.attempt, status=Status.SUCCEEDED)
    return got.job.id


def beat(store: Store, worker_id: str, host: str, kinds: tuple[str, ...] = ("train",)) -> None:
    store.workers.beat(worker_id, kinds=kinds, host=host, devices=[], storage_id="store-1", version="1")


def test_a_key_that_floods_the_queue_does_not_hold_up_another(store: Store, new_job: NewJob, claim: Look) -> None:
    for _ in range(50):
        new_job(owner="key-a")
    single = new_job(owner="key-b")

    order = [finish(store, claim()), finish(store, claim())]

    assert single.id in order


def test_devices_count_not_jobs(new_job: NewJob, claim: Look) -> None:
    for _ in range(2):
        new_job(owner="wide", requires={"num_devices": 4})
    narrow = [new_job(owner="narrow") for _ in range(5)]

    order = [got.job.id for got in (claim(num_devices=4) for _ in range(6)) if got]

    assert order[1:5] == [job.id for job in narrow[:4]]


def test_who_used_more_lately_comes_later_and_it_is_forgotten(store: Store, new_job: NewJob, claim: Look) -> None:
    new_job(owner="heavy")
    finish(store, claim(), after_seconds=10 * 3600)
    new_job(owner="light")
    finish(store, claim(), after_seconds=3600)

    heavy, light = new_job(owner="heavy"), new_job(owner="light")
    got = claim()
    assert got is not None and got.job.id == light.id

    with store.database.write() as connection:
        long_ago = now() - timedelta(seconds=20 * HALF_LIFE_SECONDS)
        connection.execute(update(usage).where(usage.c.owner == "heavy").values(counted_at=long_ago))
    new_job(owner="light")
    got = claim()
    assert got is not None and got.job.id == heavy.id


def test_usage_is_device_seconds_and_halves(store: Store, new_job: NewJob, claim: Look) -> None:
    new_job(owner="k", requires={"num_devices": 3})
    finish(store, claim(num_devices=3), after_seconds=100)
    with store.database.write() as connection:
        assert connection.execute(select(usage.c.device_seconds)).scalar_one() == pytest.approx(300, rel=0.05)
        connection.execute(update(usage).values(counted_at=now() - timedelta(seconds=HALF_LIFE_SECONDS)))
    new_job(owner="k")
    finish(store, claim(), after_seconds=100)

    with store.database.read() as connection:
        assert connection.execute(select(usage.c.device_seconds)).scalar_one() == pytest.approx(250, rel=0.05)


def test_a_key_of_twice_the_share_gets_twice_the_devices(
    store: Store, project: str, new_job: NewJob, claim: Look
) -> None:
    wide, _ = store.keys.create(project, "wide", "user", share=2.0)
    narrow, _ = store.keys.create(project, "narrow", "user")
    for key in (wide, narrow):
        for _ in range(6):
            new_job(owner=key.id)

    with store.database.read() as connection:
        owners = {row.id: row.owner for row in connection.execute(select(jobs.c.id, jobs.c.owner))}
    got = [owners[one.job.id] for one in (claim() for _ in range(6)) if one]

    assert (got.count(wide.id), got.count(narrow.id)) == (4, 2)


def test_a_priority_can_be_changed_until_the_job_runs(store: Store, project: str, new_job: NewJob, claim: Look) -> None:
    first, second = new_job(), new_job()

    changed = store.jobs.set_priority(project, second.id, 7)

    assert changed.priority == 7 and store.events.list(project, second.id)[-1].data == {"priority": 7, "before": 0}
    got = claim()
    assert got is not None and got.job.id == second.id
    with pytest.raises(InvalidJobState, match="running"):
        store.jobs.set_priority(project, second.id, 1)
    assert store.jobs.set_priority(project, first.id, 0) == first


@pytest.mark.parametrize(
    ("kind", "fits_a100", "fits_t4"),
    [
        ("A100", True, False), ("a100-80gb", True, False), ("NVIDIA A100 80GB", True, False),
        ("A100-40GB", False, False), ("T4", False, True), ("tesla_t4-16gb", False, True),
        ("H100", False, False), ("80GB", True, False),
    ],
)  # fmt: skip
def test_a_kind_of_card_is_matched_however_it_is_written(
    new_job: NewJob, claim: Look, kind: str, fits_a100: bool, fits_t4: bool
) -> None:
    job = new_job(requires={"num_devices": 1, "accelerator": "cuda", "gpu_kind": kind})

    assert claim(free=[]) is None
    for device, fits in ((T4, fits_t4), (A100[0], fits_a100)):
        got = claim(free=[device])
        assert (got is not None and got.job.id == job.id) == fits
        if got is not None:
            return


def test_the_claim_and_the_rule_agree_on_what_a_worker_can_take(store: Store, new_job: NewJob, claim: Look) -> None:
    chance = random.Random(7)
    cpu = Device(id="cpu")
    machines = [[cpu], [T4], A100, [*A100[:2], T4], []]
    for _ in range(60):
        asks = {
            "num_devices": chance.randint(0, 4),
            "gpu_kind": chance.choice([None, "A100", "T4", "A100-80GB"]),
            "min_gpu_memory_gib": chance.choice([None, 10, 16, 17, 80, 81]),
            "accelerator": chance.choice([None, "cpu", "cuda"]),
        }
        if asks["gpu_kind"] or asks["min_gpu_memory_gib"]:
            asks["accelerator"] = "cuda"
        asks = {name: value for name, value in asks.items() if value is not None}
        machine = chance.choice(machines)
        new_job(requires=asks)
        got = claim(free=machine)

        assert (got is not None) == requirements.are_met(asks, machine), (asks, machine)
        for job in store.jobs.list(store.projects.default().id, status=Status.QUEUED):
            store.jobs.cancel(job.project_id, job.id)


def test_the_order_that_is_told_is_the_order_of_the_claims(
    store: Store, project: str, other_project: str, new_job: NewJob, claim: Look
) -> None:
    chance = random.Random(3)
    store.keys.create(project, "wide", "user", share=3.0)
    owners = [key.id for key in store.keys.list(project)] + ["a", "b"]
    for _ in range(3):
        new_job(owner="a", requires={"num_devices": chance.randint(1, 2)})
        claim(num_devices=4)
    for _ in range(40):
        chosen = {"owner": chance.choice(owners), "project_id": chance.choice([project, other_project])}
        asks = {"num_devices": chance.randint(0, 3)}
        new_job(**chosen, requires=asks, priority=chance.choice([0, 0, 0, 2]))

    snapshot = store.queued.snapshot(())
    told = [job.id for job in in_order(snapshot.waiting, snapshot.balance)]

    assert [got.job.id for got in (claim(num_devices=4) for _ in told) if got] == told


def test_how_long_a_running_job_still_takes_is_seen_from_its_steps(store: Store, new_job: NewJob, claim: Look) -> None:
    new_job()
    got = claim()
    assert got is not None
    began = now() - timedelta(seconds=100)
    steps = [
        NewEvent(type="metrics", data={"step": step}, created_at=began + timedelta(seconds=2 * step))
        for step in (10, 20, 50)
    ]
    store.attempts.renew(got.job.id, 1, events=steps, progress={"step": 50, "total_steps": 200})

    [running] = store.queued.snapshot(()).running

    assert running.seconds_left == pytest.approx(300, abs=3)


def test_where_nothing_is_told_past_jobs_say_how_long_one_takes(store: Store, new_job: NewJob, claim: Look) -> None:
    new_job()
    got = claim()
    assert got is not None and store.queued.snapshot(()).running[0].seconds_left is None
    with store.database.write() as connection:
        connection.execute(update(jobs).values(started_at=now() - timedelta(seconds=600)))
    finish(store, got)
    new_job()
    claim()

    snapshot = store.queued.snapshot(())

    assert snapshot.usual_seconds["train"] == pytest.approx(600, abs=3)
    assert snapshot.running[0].seconds_left == pytest.approx(600, abs=3)


def test_a_large_job_is_not_held_up_for_ever_by_small_ones(store: Store, new_job: NewJob, claim: Look) -> None:
    beat(store, "w1", "big")
    beat(store, "w2", "big")
    small = [new_job(requires=ONE) for _ in range(2)]
    for job, worker in zip(small, ("w1", "w2"), strict=True):
        got = claim(worker_id=worker, host="big", free=A100, machine=A100)
        assert got is not None and got.job.id == job.id
        store.attempts.take_devices(job.id, 1, ["GPU-0" if worker == "w1" else "GPU-1"])
    large, late = new_job(requires={"num_devices": 4}), new_job(requires=ONE)
    busy = {"host": "big", "machine": A100}

    passes = claim(worker_id="w1", free=A100[2:], **busy)
    assert passes is not None and passes.job.id == late.id, "not waited long enough: smaller ones go past"
    grow_old(store, large, PATIENCE_SECONDS + 1)
    new_job(requires=ONE)
    assert claim(worker_id="w1", free=A100[2:], **busy) is None, "what is free is kept for it"
    urgent = new_job(priority=5, requires=ONE)
    got = claim(worker_id="w1", free=A100[2:], **busy)
    assert got is not None and got.job.id == urgent.id, "a higher priority goes first all the same"
    for held in store.attempts.held():
        store.attempts.finish(held.job_id, held.attempt, status=Status.SUCCEEDED)
    got = claim(worker_id="w1", free=A100, **busy)
    assert got is not None and got.job.id == large.id


def test_one_host_is_kept_and_others_go_on(store: Store, new_job: NewJob, claim: Look) -> None:
    beat(store, "w1", "a")
    beat(store, "w2", "b")
    large, small = new_job(requires={"num_devices": 4}), new_job(requires=ONE)
    grow_old(store, large, PATIENCE_SECONDS + 1)

    assert claim(worker_id="w1", host="a", free=A100[:3], machine=A100) is None
    got = claim(worker_id="w2", host="b", free=A100[:3], machine=A100)
    assert got is not None and got.job.id == small.id
    store.workers.remove("w1")
    new_job(requires=ONE)
    assert claim(worker_id="w2", host="b", free=A100[:2], machine=A100) is None, "host a is gone: now b is kept for it"


def test_devices_that_a_claimed_job_has_yet_to_take_are_gone(store: Store, new_job: NewJob, claim: Look) -> None:
    beat(store, "w1", "big")
    beat(store, "w2", "big")
    first, second = new_job(requires={"num_devices": 3}), new_job(requires={"num_devices": 2})
    got = claim(worker_id="w1", host="big", free=A100, machine=A100)
    assert got is not None and got.job.id == first.id

    assert claim(worker_id="w2", host="big", free=A100, machine=A100) is None, "it prepares and holds no device yet"
    store.attempts.take_devices(first.id, 1, [device.id for device in A100[:3]])
    assert claim(worker_id="w2", host="big", free=A100[3:], machine=A100) is None
    store.attempts.finish(first.id, 1, status=Status.SUCCEEDED)
    got = claim(worker_id="w2", host="big", free=A100, machine=A100)
    assert got is not None and got.job.id == second.id


def test_a_training_that_prepares_takes_no_cpu_from_an_export(store: Store, new_job: NewJob, claim: Look) -> None:
    cpu = [Device(id="cpu")]
    beat(store, "w1", "small")
    beat(store, "w2", "small", ("export",))
    new_job(requires=ONE)
    new_job(kind=Kind.EXPORT, requires={"num_devices": 1})

    assert claim(worker_id="w1", host="small", free=cpu, machine=cpu) is not None
    assert claim(worker_id="w2", host="small", kinds=[Kind.EXPORT], free=cpu, machine=cpu) is not None
