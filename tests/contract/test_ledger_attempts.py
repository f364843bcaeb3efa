"""The fence, the lease and the sweep: an attempt that is over writes nothing, a lost one is begun anew."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.errors import LeaseLost, NotFound
from shared.job import MAX_LOST_ATTEMPTS, Job, Status, Wanted
from shared.records import Claim, NewEvent, NewModel
from shared.store import Store
from tests.contract.racing import in_threads

NewJob = Callable[..., Job]
Look = Callable[..., Claim | None]

CHECKPOINT = {"uri": "store://c", "digest": "sha256:c", "size_bytes": 5}
#: Every write that a worker can do, as attempt 1.
WRITES: dict[str, Callable[[Store, str], Any]] = {
    "renew": lambda store, job_id: store.attempts.renew(job_id, 1, events=[NewEvent(type="message", message="late")]),
    "add_checkpoint": lambda store, job_id: store.attempts.add_checkpoint(job_id, 1, step=9, **CHECKPOINT),
    "release": lambda store, job_id: store.attempts.release(job_id, 1, status=Status.QUEUED, reason="late"),
    "retry": lambda store, job_id: store.attempts.retry(job_id, 1, error={"message": "late"}, why="late"),
    "finish": lambda store, job_id: store.attempts.finish(
        job_id,
        1,
        status=Status.SUCCEEDED,
        models=[NewModel(name="late", kind="adapter", uri="u", digest="d", size_bytes=1, format="safetensors")],
    ),
}


def metrics(step: int, **data: Any) -> NewEvent:
    return NewEvent(type="metrics", message=f"step {step}", data={"step": step, **data})


def lose(store: Store, job: Job) -> Job:
    """The sweep finds the current attempt silent."""
    [held] = [held for held in store.attempts.held() if held.job_id == job.id]
    return store.attempts.reclaim(job.id, held.attempt, held.beat, "worker w1 was silent")


@pytest.mark.parametrize("write", WRITES)
def test_an_attempt_that_was_reclaimed_writes_nothing(
    store: Store, project: str, running: NewJob, claim: Look, write: str
) -> None:
    job = running()
    lose(store, job)
    second = claim(worker_id="w2")
    assert second is not None and second.attempt == 2
    before = (store.jobs.get(project, job.id), store.events.list(project, job.id))

    with pytest.raises(LeaseLost):
        WRITES[write](store, job.id)

    assert (store.jobs.get(project, job.id), store.events.list(project, job.id)) == before
    assert store.checkpoints.list(project, job.id) == [] and store.models.list(project) == []


@pytest.mark.parametrize("write", WRITES)
def test_an_attempt_that_finished_writes_nothing_more(store: Store, running: NewJob, write: str) -> None:
    job = running()
    store.attempts.finish(job.id, 1, status=Status.FAILED, error={"code": "oom", "message": "out of memory"})

    with pytest.raises(LeaseLost):
        WRITES[write](store, job.id)


@pytest.mark.parametrize("write", WRITES)
def test_a_job_that_never_was_is_a_lost_lease(store: Store, write: str) -> None:
    with pytest.raises(LeaseLost):
        WRITES[write](store, "ftjob-never")


def test_a_renewal_carries_events_offset_phase_and_progress(store: Store, project: str, running: NewJob) -> None:
    job = running()
    moment = datetime(2026, 5, 4, 3, 2, 1, 123456, tzinfo=UTC)

    store.attempts.renew(job.id, 1, phase="prepare", progress={"done": 1}, offset=10)
    wanted = store.attempts.renew(
        job.id,
        1,
        events=[NewEvent(type="metrics", level="warning", message="m", data={"step": 3}, created_at=moment)],
        offset=99,
        phase="train",
        progress={"step": 3, "loss": 1.5},
    )

    assert wanted is Wanted.RUN
    found = store.jobs.get(project, job.id)
    assert (found.phase, found.progress) == ("train", {"done": 1, "step": 3, "loss": 1.5})
    assert store.attempts.offset(job.id, 1) == 99
    assert [held.beat for held in store.attempts.held()] == [2]
    [event] = store.events.list(project, job.id, after=2)
    assert (event.number, event.attempt, event.type, event.level) == (3, 1, "metrics", "warning")
    assert (event.message, event.data, event.created_at) == ("m", {"step": 3}, moment)


def test_a_renewal_without_news_moves_only_the_beat(store: Store, project: str, running: NewJob) -> None:
    job = running()

    store.attempts.renew(job.id, 1)

    assert store.jobs.get(project, job.id) == job
    assert store.attempts.offset(job.id, 1) == 0
    assert [held.beat for held in store.attempts.held()] == [1]


def test_what_postgresql_cannot_store_does_not_cost_the_lease(store: Store, project: str, running: NewJob) -> None:
    job = running()
    data = {"loss": math.nan, "grad_norm": math.inf, "text": "a\0b\ud800c", "deep": [{"k\0": -math.inf}]}

    store.attempts.renew(job.id, 1, events=[NewEvent(type="metrics", message="nul \0 half \udc80", data=data)])

    [event] = store.events.list(project, job.id, after=2)
    assert event.data == {"loss": None, "grad_norm": None, "text": "a\ufffdb?c", "deep": [{"k\ufffd": None}]}
    assert event.message == "nul \ufffd half ?"


@pytest.mark.parametrize("step", [None, "7", 1.5, True, 10**30])
def test_a_step_that_is_no_number_does_not_cost_the_lease(
    store: Store, project: str, running: NewJob, claim: Look, step: object
) -> None:
    job = running()
    store.attempts.renew(job.id, 1, events=[NewEvent(type="metrics", message="odd", data={"step": step})])
    store.attempts.add_checkpoint(job.id, 1, step=1, **CHECKPOINT)
    lose(store, job)

    assert claim() is not None
    [odd] = [event for event in store.events.list(project, job.id) if event.type == "metrics"]
    assert odd.data == {"step": step} and not odd.superseded


def test_events_of_writers_at_the_same_time_are_numbered_without_gaps(
    store: Store, project: str, running: NewJob
) -> None:
    job = running()

    def write(number: int) -> None:
        if number % 8 == 0:
            store.jobs.pause(project, job.id)
        for _ in range(5):
            store.attempts.renew(job.id, 1, events=[NewEvent(type="message", message=f"{number}")] * 2)

    in_threads(8, write)

    events = store.events.list(project, job.id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert store.jobs.get(project, job.id).last_event == len(events) == 2 + 2 + 8 * 5 * 2
    assert [held.beat for held in store.attempts.held()] == [40]


def test_an_offset_of_an_unknown_attempt_is_not_found(store: Store, running: NewJob) -> None:
    job = running()

    with pytest.raises(NotFound):
        store.attempts.offset(job.id, 2)


def test_a_reclaimed_job_is_queued_again_and_says_why(store: Store, project: str, running: NewJob, claim: Look) -> None:
    job = running()

    lost = lose(store, job)

    assert (lost.status, lost.lost_attempts, lost.worker_id, lost.phase) == (Status.QUEUED, 1, None, None)
    assert store.attempts.held() == []
    [attempt] = store.attempts.list(project, job.id)
    assert (attempt.status, attempt.reason) == ("lost", "worker w1 was silent")
    assert attempt.ended_at is not None
    event = store.events.list(project, job.id)[-1]
    assert (event.type, event.level, event.data["reason"]) == ("status", "warning", "worker w1 was silent")
    again = claim()
    assert again is not None and again.job.started_at == job.started_at


def test_a_reclaim_spares_a_holder_whose_beat_moved_on(store: Store, project: str, running: NewJob) -> None:
    job = running()
    [held] = store.attempts.held()
    store.attempts.renew(job.id, 1)

    with pytest.raises(LeaseLost):
        store.attempts.reclaim(job.id, held.attempt, held.beat, "seemed silent")

    assert store.jobs.get(project, job.id).status is Status.RUNNING


def test_of_sweeps_and_a_renewal_at_once_only_one_wins(store: Store, project: str, running: NewJob) -> None:
    job = running()

    def race(number: int) -> str:
        try:
            if number == 0:
                store.attempts.renew(job.id, 1)
            else:
                store.attempts.reclaim(job.id, 1, 0, "silent")
        except LeaseLost:
            return "lost"
        return "won"

    outcomes = in_threads(6, race)

    assert outcomes.count("won") == 1
    assert store.jobs.get(project, job.id).status is (Status.RUNNING if outcomes[0] == "won" else Status.QUEUED)


def test_lost_attempts_in_a_row_fail_the_job(store: Store, project: str, new_job: NewJob, claim: Look) -> None:
    job = new_job()
    for _ in range(MAX_LOST_ATTEMPTS):
        assert claim() is not None
        lost = lose(store, job)

    assert (lost.status, lost.lost_attempts) == (Status.FAILED, MAX_LOST_ATTEMPTS)
    assert lost.error is not None and lost.error["code"] == "worker_lost"
    assert "worker w1 was silent" in lost.error["message"]
    assert lost.finished_at is not None
    last = store.events.list(project, job.id)[-1]
    assert (last.type, last.level, last.data["status"]) == ("done", "error", "failed")
    assert claim() is None


def test_a_lost_attempt_that_brought_a_checkpoint_does_not_count(
    store: Store, project: str, new_job: NewJob, claim: Look
) -> None:
    job = new_job()
    for step in range(MAX_LOST_ATTEMPTS + 2):
        got = claim()
        assert got is not None
        store.attempts.add_checkpoint(job.id, got.attempt, step=step, **CHECKPOINT)
        assert lose(store, job).lost_attempts == 0

    assert store.jobs.get(project, job.id).status is Status.QUEUED


def test_a_checkpoint_clears_the_count_of_lost_attempts(store: Store, new_job: NewJob, claim: Look) -> None:
    job = new_job()
    for _ in range(MAX_LOST_ATTEMPTS - 1):
        claim()
        lose(store, job)
    got = claim()
    assert got is not None and got.job.lost_attempts == MAX_LOST_ATTEMPTS - 1
    store.attempts.add_checkpoint(job.id, got.attempt, step=1, **CHECKPOINT)

    lose(store, job)
    claim()

    assert lose(store, job).lost_attempts == 1


@pytest.mark.parametrize(
    ("ask", "status"), [("cancel", Status.CANCELLED), ("pause", Status.PAUSED), (None, Status.QUEUED)]
)
@pytest.mark.parametrize("way", ["reclaim", "release"])
def test_wanted_decides_where_a_stopped_job_goes(
    store: Store, project: str, running: NewJob, ask: str | None, status: Status, way: str
) -> None:
    job = running(secrets={"hf_hub_token": "s"})
    if ask:
        getattr(store.jobs, ask)(project, job.id)

    if way == "reclaim":
        stopped = lose(store, job)
    else:
        stopped = store.attempts.release(job.id, 1, status=Status.QUEUED, reason="worker shuts down")

    assert stopped.status is status
    assert (stopped.finished_at is not None) == (status is Status.CANCELLED)
    assert store.events.list(project, job.id)[-1].type == ("done" if status is Status.CANCELLED else "status")


def test_a_job_resumed_while_it_was_pausing_goes_back_to_the_queue(store: Store, project: str, running: NewJob) -> None:
    job = running()
    store.jobs.pause(project, job.id)
    assert store.attempts.renew(job.id, 1) is Wanted.PAUSE
    store.jobs.resume(project, job.id)

    released = store.attempts.release(job.id, 1, status=Status.PAUSED, reason="paused")

    assert (released.status, released.wanted) == (Status.QUEUED, Wanted.RUN)


def test_a_release_is_not_counted_as_lost(store: Store, new_job: NewJob, claim: Look) -> None:
    job = new_job()
    for _ in range(MAX_LOST_ATTEMPTS + 1):
        got = claim()
        assert got is not None
        released = store.attempts.release(job.id, got.attempt, status=Status.QUEUED, reason="worker shuts down")

    assert (released.status, released.lost_attempts) == (Status.QUEUED, 0)


def test_the_holder_that_sees_a_pause_says_so(store: Store, project: str, running: NewJob) -> None:
    job = running()
    asked = store.jobs.pause(project, job.id)
    assert (asked.status, asked.wanted) == (Status.RUNNING, Wanted.PAUSE)

    assert store.attempts.renew(job.id, 1) is Wanted.PAUSE

    assert store.jobs.get(project, job.id).status is Status.PAUSING
    assert store.events.list(project, job.id)[-1].data == {"status": "pausing"}
    store.jobs.resume(project, job.id)
    assert store.attempts.renew(job.id, 1) is Wanted.RUN
    assert store.jobs.get(project, job.id).status is Status.RUNNING


def test_a_cancel_is_seen_by_the_next_renewal(store: Store, project: str, running: NewJob) -> None:
    job = running()
    store.jobs.cancel(project, job.id)

    assert store.attempts.renew(job.id, 1) is Wanted.CANCEL
    assert store.jobs.get(project, job.id).status is Status.RUNNING


def test_a_new_attempt_supersedes_the_metrics_past_its_resume_point(
    store: Store, project: str, running: NewJob, claim: Look
) -> None:
    job = running()
    store.attempts.renew(job.id, 1, events=[metrics(1), metrics(2), metrics(3), NewEvent(type="message", message="m")])
    store.attempts.add_checkpoint(job.id, 1, step=2, **CHECKPOINT)
    store.attempts.renew(job.id, 1, events=[metrics(4)])
    lose(store, job)
    assert not any(event.superseded for event in store.events.list(project, job.id))

    assert claim() is not None
    store.attempts.renew(job.id, 2, events=[metrics(3)])

    events = [event for event in store.events.list(project, job.id) if event.type == "metrics"]
    assert [(event.attempt, event.data["step"], event.superseded) for event in events] == [
        (1, 1, False),
        (1, 2, False),
        (1, 3, True),
        (1, 4, True),
        (2, 3, False),
    ]
    assert [data["step"] for data in store.events.measured(project, job.id)] == [1, 2, 3]
    assert store.events.last_step(job.id) == 4 and store.events.last_step("ftjob-unknown") == -1


def test_without_a_checkpoint_all_metrics_are_superseded(
    store: Store, project: str, running: NewJob, claim: Look
) -> None:
    job = running()
    store.attempts.renew(job.id, 1, events=[metrics(0), metrics(1)])
    lose(store, job)

    claim()

    superseded = [event.data["step"] for event in store.events.list(project, job.id) if event.superseded]
    assert superseded == [0, 1]


def test_resume_takes_the_newest_checkpoint_of_all_attempts(
    store: Store, project: str, running: NewJob, claim: Look
) -> None:
    job = running()
    assert store.checkpoints.latest(job.id) is None
    store.attempts.add_checkpoint(job.id, 1, step=10, **CHECKPOINT)
    newest = store.attempts.add_checkpoint(job.id, 1, step=20, **{**CHECKPOINT, "metrics": {"loss": 0.5}})
    lose(store, job)
    claim()

    assert store.checkpoints.latest(job.id) == newest
    assert [checkpoint.step for checkpoint in store.checkpoints.list(project, job.id)] == [10, 20]
    assert newest.metrics == {"loss": 0.5} and newest.attempt == 1


def test_a_checkpoint_told_twice_is_one(store: Store, project: str, running: NewJob) -> None:
    job = running()

    first = store.attempts.add_checkpoint(job.id, 1, step=10, **CHECKPOINT)
    again = store.attempts.add_checkpoint(job.id, 1, step=10, **CHECKPOINT)

    assert again == first
    assert [event.type for event in store.events.list(project, job.id)].count("checkpoint") == 1


def test_moments_are_aware_and_in_utc(store: Store, project: str, running: NewJob) -> None:
    before = datetime.now(UTC)
    job = running()
    found = store.jobs.get(project, job.id)

    for moment in (found.created_at, found.started_at, store.events.list(project, job.id)[0].created_at):
        assert moment is not None and moment.utcoffset() == timedelta(0)
        assert before <= moment <= datetime.now(UTC)
