"""Who gets which job: once each, by priority and fair share, and only where it can run."""

from __future__ import annotations

from collections.abc import Callable

from shared.job import Job, Kind, Status, Wanted
from shared.records import Claim
from shared.store import Store
from tests.contract.racing import claim_until_none_is_left, in_processes, in_threads

NewJob = Callable[..., Job]
Look = Callable[..., Claim | None]


def test_eight_processes_claim_every_job_exactly_once(
    store: Store, project: str, database_url: str, new_job: NewJob
) -> None:
    made = {new_job().id for _ in range(60)}

    claims = in_processes(claim_until_none_is_left, [(database_url, f"w{number}") for number in range(8)])

    got = [claim for worker in claims for claim in worker]
    assert sorted(got) == sorted((job_id, 1) for job_id in made)
    assert sum(1 for worker in claims if worker) > 1
    assert store.jobs.counts() == {(Kind.TRAIN, Status.SUCCEEDED): 60}
    for job_id in made:
        assert [event.number for event in store.events.list(project, job_id)] == [1, 2, 3, 4]


def test_threads_of_one_process_claim_every_job_exactly_once(new_job: NewJob, claim: Look) -> None:
    made = {new_job().id for _ in range(12)}

    claims = in_threads(16, lambda number: claim(worker_id=f"w{number}"))

    got = [one.job.id for one in claims if one]
    assert len(got) == 12 and set(got) == made


def test_a_claim_begins_an_attempt_that_is_the_fencing_token(store: Store, project: str, new_job: NewJob, claim: Look):
    job = new_job(secrets={"hf_hub_token": "s3cret"})

    got = claim(worker_id="w7")

    assert got is not None
    assert got.attempt == got.job.attempt == 1
    assert got.secrets == {"hf_hub_token": "s3cret"}
    assert (got.job.status, got.job.wanted, got.job.worker_id) == (Status.RUNNING, Wanted.RUN, "w7")
    assert got.job.started_at is not None
    assert store.jobs.get(project, job.id) == got.job
    [attempt] = store.attempts.list(project, job.id)
    assert (attempt.number, attempt.beat, attempt.worker_id, attempt.status) == (1, 0, "w7", "running")
    [held] = store.attempts.held()
    assert held == (job.id, 1, 0, Kind.TRAIN, "w7")


def test_an_empty_queue_gives_nothing(claim: Look) -> None:
    assert claim() is None


def test_higher_priority_runs_first_then_the_oldest(new_job: NewJob, claim: Look) -> None:
    first, second, urgent = new_job(), new_job(), new_job(priority=5)

    order = [one.job.id for one in (claim(), claim(), claim()) if one]

    assert order == [urgent.id, first.id, second.id]


def test_who_has_fewest_running_comes_next(new_job: NewJob, other_project: str, claim: Look) -> None:
    busy = [new_job() for _ in range(3)]
    late = new_job(project_id=other_project)

    order = [one.job.id for one in (claim(), claim(), claim(), claim()) if one]

    assert order == [busy[0].id, late.id, busy[1].id, busy[2].id]


def test_within_a_project_its_owners_share(new_job: NewJob, claim: Look) -> None:
    mine = [new_job(owner="key-a") for _ in range(2)]
    yours = new_job(owner="key-b")

    order = [one.job.id for one in (claim(), claim(), claim()) if one]

    assert order == [mine[0].id, yours.id, mine[1].id]


def test_priority_beats_fair_share(new_job: NewJob, other_project: str, claim: Look) -> None:
    busy = [new_job(priority=1) for _ in range(2)]
    late = new_job(project_id=other_project)

    order = [one.job.id for one in (claim(), claim(), claim()) if one]

    assert order == [busy[0].id, busy[1].id, late.id]


def test_a_worker_gets_only_kinds_it_does(new_job: NewJob, claim: Look) -> None:
    export = new_job(kind=Kind.EXPORT)

    assert claim(kinds=[Kind.TRAIN, Kind.GENERATE]) is None
    got = claim(kinds=[Kind.EXPORT])
    assert got is not None and got.job.id == export.id


def test_a_worker_gets_only_jobs_for_its_devices(new_job: NewJob, claim: Look) -> None:
    large = new_job(requires={"num_devices": 4})

    assert claim(num_devices=3) is None
    got = claim(num_devices=4)
    assert got is not None and got.job.id == large.id


def test_a_job_that_is_too_large_does_not_hold_up_the_next(new_job: NewJob, claim: Look) -> None:
    new_job(requires={"num_devices": 8}, priority=9)
    small = new_job(requires={"num_devices": 1})

    got = claim(num_devices=1)

    assert got is not None and got.job.id == small.id


def test_a_worker_gets_only_jobs_whose_labels_it_has(new_job: NewJob, claim: Look) -> None:
    job = new_job(requires={"labels": ["h100", "eu"]})

    assert claim() is None
    assert claim(labels=["eu"]) is None
    got = claim(labels=["eu", "h100", "nvlink"])
    assert got is not None and got.job.id == job.id


def test_a_job_runs_only_where_its_files_are(new_job: NewJob, claim: Look) -> None:
    job = new_job(requires={"storage_id": "store-2"})

    assert claim(storage_id="store-1") is None
    assert claim(storage_id=None) is None
    got = claim(storage_id="store-2")
    assert got is not None and got.job.id == job.id
