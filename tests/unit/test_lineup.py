"""Where jobs stand in the queue, and when they start."""

from __future__ import annotations

from typing import Any

from shared.lineup import Lineup, Need, Running, Snapshot, Waiting
from shared.records import Worker
from shared.store.columns import now

A100 = {"kind": "NVIDIA A100-SXM4-80GB", "memory_gib": 79.2}


def worker(id: str, *held_by: str | None, kinds: tuple[str, ...] = ("train",), **card: Any) -> Worker:
    names = [f"{id}-{number}" for number in range(len(held_by))]
    devices = [
        {"id": name, **(card or A100), "held_by": {"id": who, "kind": "train"} if who else None}
        for name, who in zip(names, held_by, strict=True)
    ]
    return Worker(
        id=id, kinds=list(kinds), host=id, devices=names, storage_id="s", labels=[], metrics_url=None, version="1",
        started_at=now(), seen_at=now(), machine={"devices": devices},
    )  # fmt: skip


def need(num_devices: int = 1, **asks: Any) -> Need:
    return Need(**{"kind": "train", "storage_id": None, "gpu_kind": None, "min_gpu_memory_gib": None,
                   "accelerator": "cuda" if asks else None, **asks, "num_devices": num_devices})  # fmt: skip


def waiting(id: str, *, owner: str = "k", priority: int = 0, needs: Need | None = None) -> Waiting:
    return Waiting(id, "p", owner, priority, needs or need())


def running(id: str, worker_id: str, seconds_left: float | None) -> Running:
    return Running(id=id, project_id="p", kind="train", worker_id=worker_id, seconds_left=seconds_left)


def test_only_jobs_for_the_same_workers_are_ahead() -> None:
    t4 = worker("t4", None, kind="Tesla T4", memory_gib=14.6)
    jobs = [
        waiting("1", needs=need(gpu_kind="T4")), waiting("2", needs=need(gpu_kind="A100")), waiting("3"),
        waiting("4", needs=need(gpu_kind="T4")), waiting("5", needs=need(gpu_kind="H100")),
        waiting("6", needs=need(gpu_kind="H100")),
    ]  # fmt: skip

    lineup = Lineup(Snapshot(waiting=jobs, workers=[t4, worker("a", None)]))

    places = {job.id: lineup.place(job.id) for job in jobs}
    assert {id: place.position for id, place in places.items() if place} == {
        "1": 1, "2": 1, "3": 3, "4": 3, "5": 1, "6": 2,
    }  # fmt: skip
    assert places["5"] is not None and places["5"].workers == ()
    assert lineup.place("7") is None


def test_starts_are_guessed_from_what_runs_and_what_is_usual() -> None:
    jobs = [waiting(str(number)) for number in range(1, 5)]
    workers = [worker("a", "x"), worker("b", "y")]
    held = [running("x", "a", 60.0), running("y", "b", 100.0)]

    told = Lineup(Snapshot(waiting=jobs, workers=workers, running=held, usual_seconds={"train": 50.0}))

    starts = [(place.worker.id, place.seconds) for job in jobs if (place := told.place(job.id)) and place.worker]
    assert starts == [("a", 60.0), ("b", 100.0), ("a", 110.0), ("b", 150.0)]


def test_what_is_not_known_is_not_guessed() -> None:
    jobs = [waiting("1"), waiting("2")]
    lineup = Lineup(Snapshot(waiting=jobs, workers=[worker("a", None)]))
    first, second = lineup.place("1"), lineup.place("2")
    assert first is not None and first.seconds == 0.0
    assert second is not None and second.seconds is None, "nobody knows how long the first takes"

    replica = Lineup(Snapshot(waiting=jobs, workers=[worker("a", "replica-1")])).place("1")
    assert replica is not None and replica.seconds is None and len(replica.workers) == 1


def test_a_job_waits_for_as_many_devices_as_it_needs() -> None:
    held = [running("x", "other", 30.0), running("y", "another", 70.0)]
    machine = worker("a", "x", "y", None)
    jobs = [waiting("1", needs=need(2))]

    place = Lineup(Snapshot(waiting=jobs, workers=[machine], running=held)).place("1")

    assert place is not None and place.seconds == 30.0
