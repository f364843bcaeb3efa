"""Attempts that failed in a way that another one may not: adjusted, or just again; connections that are lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sqlalchemy import text

from shared.job import MAX_LOST_ATTEMPTS, Job, Status
from shared.lease import Lease
from shared.records import Claim, NewEvent
from shared.store import Store

NewJob = Callable[..., Job]
Look = Callable[..., Claim | None]

ERROR = {"code": "out_of_memory", "message": "CUDA out of memory", "field": "per_device_train_batch_size"}
KILLED = {"code": "child_killed", "message": "rank 1 was killed", "field": None, "rank": 1}
CHECKPOINT = {"uri": "store://c", "digest": "sha256:c", "size_bytes": 5}


def test_the_next_attempt_runs_with_what_was_adjusted_and_the_spec_stays(
    store: Store, project: str, new_job: NewJob, claim: Look
) -> None:
    job = new_job()
    claim()
    store.attempts.retry(job.id, 1, error=ERROR, why="smaller batches", adjustments={"a": 4, "b": 2})
    claim()
    again = store.attempts.retry(job.id, 2, error=ERROR, why="smaller batches", adjustments={"a": 2})
    got = claim()

    assert (again.status, again.lost_attempts, again.spec, again.error) == (Status.QUEUED, 0, job.spec, None)
    assert got is not None and got.job.adjustments == {"a": 2, "b": 2}
    tried = store.attempts.list(project, job.id)
    assert [one.adjustments for one in tried] == [{}, {"a": 4, "b": 2}, {"a": 2, "b": 2}]
    assert [(one.status, one.error) for one in tried] == [("failed", ERROR), ("failed", ERROR), ("running", None)]
    told = [event for event in store.events.list(project, job.id) if event.type == "failure"]
    assert [(event.level, event.data["adjustments"]) for event in told] == [
        ("warning", {"a": 4, "b": 2}),
        ("warning", {"a": 2}),
    ]


def test_a_failure_that_may_pass_is_tried_again_a_few_times(store: Store, new_job: NewJob, claim: Look) -> None:
    job = new_job()
    ended = []
    for number in range(1, MAX_LOST_ATTEMPTS + 1):
        claim()
        ended.append(store.attempts.retry(job.id, number, error=KILLED, why="again"))

    assert [one.status for one in ended] == [Status.QUEUED, Status.QUEUED, Status.FAILED]
    error = ended[-1].error
    assert error == KILLED | {"message": "3 attempts in a row failed before a new checkpoint: rank 1 was killed"}


def test_a_new_checkpoint_begins_the_count_anew(store: Store, new_job: NewJob, claim: Look) -> None:
    job = new_job()
    for number in range(1, MAX_LOST_ATTEMPTS + 2):
        claim()
        store.attempts.add_checkpoint(job.id, number, step=number, **CHECKPOINT)
        again = store.attempts.retry(job.id, number, error=KILLED, why="again")

    assert (again.status, again.lost_attempts) == (Status.QUEUED, 0)


def test_what_the_user_wants_goes_before_another_attempt(
    store: Store, project: str, running: NewJob, claim: Look
) -> None:
    cancelled, paused = running(), running()
    store.jobs.cancel(project, cancelled.id)
    store.jobs.pause(project, paused.id)

    ended = [
        store.attempts.retry(job.id, 1, error=ERROR, why="again", adjustments={"a": 1}) for job in (cancelled, paused)
    ]

    assert [one.status for one in ended] == [Status.CANCELLED, Status.PAUSED]
    assert ended[1].adjustments == {"a": 1}, "it goes on with them when it is resumed"


def test_connections_that_the_server_ends_cost_no_lease_and_count_nothing_twice(
    store: Store, database_url: str, project: str, running: NewJob
) -> None:
    job = running()
    lease = Lease(store, job.id, 1, threading.Event(), patience_seconds=5)
    assert lease.renew([NewEvent(type="message", message="first")])

    end_connections(database_url)
    second = [NewEvent(type="message", message="second")]
    assert lease.renew(second) or lease.renew(second)
    end_connections(database_url)
    ended = lease.insist(lambda: store.attempts.finish(job.id, 1, status=Status.SUCCEEDED))

    assert ended.status is Status.SUCCEEDED
    told = [event.message for event in store.events.list(project, job.id) if event.type == "message"]
    assert told == ["first", "second"]


def end_connections(database_url: str) -> None:
    """As a restart of the server does; SQLite has none."""
    if database_url.startswith("sqlite"):
        return
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = :name"
    with Store(database_url) as other, other.database.write() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar()
        connection.execute(text(query), {"name": name})
