"""Jobs as users see them: created once, listed in pages, stopped and resumed, invisible to other projects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from shared.errors import Conflict, InvalidJobState, InvalidRequest, NotFound
from shared.job import Job, Kind, Status, Wanted
from shared.records import Claim
from shared.store import Store
from shared.store.columns import now
from shared.store.newjob import TWIN_SECONDS
from shared.store.tables import job_secrets, jobs
from tests.contract.racing import create_the_same, in_processes, in_threads

NewJob = Callable[..., Job]
Look = Callable[..., Claim | None]


@dataclass(frozen=True, kw_only=True)
class Finding:
    severity: str
    field: str
    message: str


def test_a_created_job_comes_back_as_it_was_given(store: Store, project: str) -> None:
    given = {
        "kind": Kind.EXPORT,
        "spec": {
            "schema_version": 1,
            "learning_rate": 5e-5,
            "text": "Z\u00fcrich \N{SNOWMAN}",
            "none": None,
            "list": [1, 2],
        },
        "name": "my export",
        "priority": -3,
        "requires": {"num_devices": 2, "labels": ["h100"], "storage_id": "store-1"},
        "metadata": {"team": "a"},
        "request": {"suffix": "x"},
        "then": [{"kind": "deploy", "spec": {"model": "$model"}}],
    }

    job, created = store.jobs.create(project, **given)

    assert created
    assert store.jobs.get(project, job.id) == job
    assert {name: getattr(job, name) for name in given} == given
    assert (job.status, job.wanted, job.attempt, job.last_event) == (Status.QUEUED, Wanted.RUN, 0, 1)
    assert job.id.startswith("export-")
    assert store.jobs.create(project, kind="train", spec={})[0].id.startswith("ftjob-")


def test_findings_become_warnings_in_the_jobs_events(store: Store, project: str, new_job: NewJob) -> None:
    job = new_job(findings=[Finding(severity="warning", field="lora_rank", message="rank is high")])

    queued, finding = store.events.list(project, job.id)

    assert (queued.number, queued.type, queued.data) == (1, "status", {"status": "queued"})
    assert (finding.number, finding.type, finding.level, finding.message) == (2, "finding", "warning", "rank is high")
    assert finding.data["field"] == "lora_rank"
    assert job.last_event == 2


def test_a_priority_out_of_range_names_its_field(store: Store, project: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        store.jobs.create(project, kind=Kind.TRAIN, spec={}, priority=10**12)

    assert caught.value.field == "priority"
    assert store.jobs.list(project).items == []


def test_a_job_of_an_unknown_project_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        store.jobs.create("proj-unknown", kind=Kind.TRAIN, spec={})


def test_secrets_are_apart_from_the_job_and_gone_when_it_is_over(
    store: Store, project: str, new_job: NewJob, claim: Look
) -> None:
    cancelled, finished = (new_job(secrets={"hf_hub_token": "s3cret"}) for _ in range(2))
    assert "s3cret" not in repr(store.jobs.get(project, finished.id))

    store.jobs.cancel(project, cancelled.id)
    got = claim()
    assert got is not None and got.secrets == {"hf_hub_token": "s3cret"} and "s3cret" not in repr(got)
    store.attempts.release(finished.id, 1, status=Status.QUEUED, reason="shutdown")
    got = claim()
    assert got is not None and got.secrets == {"hf_hub_token": "s3cret"}
    store.attempts.finish(finished.id, 2, status=Status.FAILED, error={"code": "x", "message": "y"})

    with store.database.read() as connection:
        assert connection.execute(select(job_secrets)).all() == []


def test_the_same_fingerprint_is_the_same_job(store: Store, project: str) -> None:
    first, created = store.jobs.create(project, kind=Kind.TRAIN, spec={}, fingerprint="f1")
    again, created_again = store.jobs.create(project, kind=Kind.TRAIN, spec={}, fingerprint="f1")
    other, created_other = store.jobs.create(project, kind=Kind.TRAIN, spec={}, fingerprint="f2")

    assert (created, created_again, created_other) == (True, False, True)
    assert again == first and other.id != first.id


def test_without_a_fingerprint_every_create_is_a_job_of_its_own(new_job: NewJob) -> None:
    assert new_job().id != new_job().id


def test_a_fingerprint_is_forgotten_after_a_minute(store: Store, project: str) -> None:
    first, _ = store.jobs.create(project, kind=Kind.TRAIN, spec={}, fingerprint="f1")
    with store.database.write() as connection:
        connection.execute(update(jobs).values(created_at=now() - timedelta(seconds=TWIN_SECONDS + 1)))

    again, created = store.jobs.create(project, kind=Kind.TRAIN, spec={}, fingerprint="f1")

    assert created and again.id != first.id


def test_a_cancelled_job_is_no_twin(store: Store, project: str) -> None:
    first, _ = store.jobs.create(project, kind=Kind.TRAIN, spec={}, fingerprint="f1")
    store.jobs.cancel(project, first.id)

    again, created = store.jobs.create(project, kind=Kind.TRAIN, spec={}, fingerprint="f1")

    assert created and again.id != first.id


def test_fingerprints_and_keys_count_within_a_project(store: Store, project: str, other_project: str) -> None:
    for given in ({"fingerprint": "f1"}, {"idempotency_key": "k1"}):
        mine, _ = store.jobs.create(project, kind=Kind.TRAIN, spec={}, **given)
        yours, created = store.jobs.create(other_project, kind=Kind.TRAIN, spec={}, **given)
        assert created and mine.id != yours.id


def test_an_idempotency_key_is_the_same_job_however_late(store: Store, project: str) -> None:
    first, _ = store.jobs.create(project, kind=Kind.TRAIN, spec={"a": 1}, idempotency_key="k")
    store.jobs.cancel(project, first.id)
    with store.database.write() as connection:
        connection.execute(update(jobs).values(created_at=now() - timedelta(days=9)))

    again, created = store.jobs.create(project, kind=Kind.TRAIN, spec={"a": 1}, idempotency_key="k")

    assert not created and again.id == first.id


def test_an_idempotency_key_with_another_body_is_a_conflict(store: Store, project: str) -> None:
    store.jobs.create(project, kind=Kind.TRAIN, spec={"a": 1}, idempotency_key="k")
    store.jobs.create(project, kind=Kind.TRAIN, spec={"a": 1}, idempotency_key="kf", fingerprint="f1")

    with pytest.raises(Conflict):
        store.jobs.create(project, kind=Kind.TRAIN, spec={"a": 2}, idempotency_key="k")
    with pytest.raises(Conflict):
        store.jobs.create(project, kind=Kind.TRAIN, spec={"a": 1}, idempotency_key="kf", fingerprint="f2")


@pytest.mark.parametrize("given", [{"fingerprint": "f1"}, {"idempotency_key": "k1"}], ids=["fingerprint", "key"])
def test_the_same_request_in_threads_is_one_job(store: Store, project: str, given: dict[str, str]) -> None:
    answers = in_threads(8, lambda _: store.jobs.create(project, kind=Kind.TRAIN, spec={"seed": 1}, **given))

    assert len({job.id for job, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1
    assert len(store.jobs.list(project)) == 1


def test_the_same_request_in_processes_is_one_job(store: Store, project: str, database_url: str) -> None:
    answers = in_processes(create_the_same, [(database_url, {"fingerprint": "f", "idempotency_key": "k"})] * 4)

    assert len({job_id for job_id, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1
    assert len(store.jobs.list(project)) == 1


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_hold_every_job_once(store: Store, project: str, new_job: NewJob, order: str) -> None:
    made = [new_job(kind=[Kind.TRAIN, Kind.EXPORT][number % 2]).id for number in range(7)]
    with store.database.write() as connection:  # of the same moment: then the id decides
        connection.execute(update(jobs).where(jobs.c.id.in_(made[2:5])).values(created_at=now()))

    seen: list[str] = []
    sizes = []
    after = None
    while True:
        page = store.jobs.list(project, after=after, limit=3, order=order)
        seen += [job.id for job in page]
        sizes.append(len(page))
        if not page.has_more:
            break
        after = page.items[-1].id

    assert sizes == [3, 3, 1]
    assert sorted(seen) == sorted(made)
    moments = [store.jobs.get(project, job_id).created_at for job_id in seen]
    assert moments == sorted(moments, reverse=order == "desc")


def test_a_page_of_what_fits_exactly_has_no_more(store: Store, project: str, new_job: NewJob) -> None:
    for _ in range(3):
        new_job()

    assert not store.jobs.list(project, limit=3).has_more
    assert store.jobs.list(project, limit=2).has_more


def test_an_unknown_cursor_is_an_error(store: Store, project: str, other_project: str, new_job: NewJob) -> None:
    elsewhere = new_job(project_id=other_project)

    for after in ("ftjob-unknown", elsewhere.id, ""):
        with pytest.raises(InvalidRequest) as caught:
            store.jobs.list(project, after=after)
        assert (caught.value.code, caught.value.status, caught.value.field) == ("invalid_cursor", 400, "after")


@pytest.mark.parametrize("given", [{"kind": "nonsense"}, {"status": "nonsense"}])
def test_an_unknown_kind_or_status_names_what_is_allowed(store: Store, project: str, given: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="'nonsense': use one of") as caught:
        store.jobs.list(project, **given)
    assert caught.value.field in given


def test_an_unknown_order_is_an_error(store: Store, project: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        store.jobs.list(project, order="sideways")
    assert caught.value.field == "order"


def test_lists_filter_by_kind_status_and_metadata(store: Store, project: str, new_job: NewJob) -> None:
    train = new_job(metadata={"team": "a", 'quo"te': "1"})
    export = new_job(kind=Kind.EXPORT, metadata={"team": "a"})
    gone = new_job(metadata={"team": "b"})
    store.jobs.cancel(project, gone.id)

    def ids(**given: object) -> list[str]:
        return [job.id for job in store.jobs.list(project, order="asc", **given)]  # type: ignore[arg-type]

    assert ids() == [train.id, export.id, gone.id]
    assert ids(kind="train") == [train.id, gone.id]
    assert ids(status=Status.CANCELLED) == [gone.id]
    assert ids(metadata={"team": "a"}) == [train.id, export.id]
    assert ids(metadata={"team": "a", 'quo"te': "1"}) == [train.id]
    assert ids(metadata={"team": "c"}) == []
    assert ids(kind="train", status="queued", metadata={"team": "a"}) == [train.id]


def test_counts_and_depth_are_of_all_projects(
    store: Store, new_job: NewJob, other_project: str, running: NewJob
) -> None:
    running()
    new_job(kind=Kind.EXPORT)
    new_job(kind=Kind.EXPORT, project_id=other_project)

    assert store.jobs.counts() == {(Kind.TRAIN, Status.RUNNING): 1, (Kind.EXPORT, Status.QUEUED): 2}
    assert store.jobs.queue_depth() == dict.fromkeys(Kind, 0) | {Kind.EXPORT: 2}


def test_a_queued_job_is_cancelled_at_once(store: Store, project: str, new_job: NewJob, claim: Look) -> None:
    job = new_job()

    cancelled = store.jobs.cancel(project, job.id)

    assert cancelled.status is Status.CANCELLED and cancelled.finished_at is not None
    assert store.events.list(project, job.id)[-1].type == "done"
    assert store.jobs.cancel(project, job.id) == cancelled
    assert claim() is None


def test_a_held_job_is_asked_to_stop_once(store: Store, project: str, running: NewJob) -> None:
    job = running()

    asked = store.jobs.cancel(project, job.id)

    assert (asked.status, asked.wanted) == (Status.RUNNING, Wanted.CANCEL)
    assert store.jobs.cancel(project, job.id) == asked
    assert store.jobs.get(project, job.id).last_event == 3


def test_a_finish_beats_a_later_cancel(store: Store, project: str, running: NewJob) -> None:
    job = running()
    store.jobs.cancel(project, job.id)

    done = store.attempts.finish(job.id, 1, status=Status.SUCCEEDED)

    assert done.status is Status.SUCCEEDED
    with pytest.raises(InvalidJobState):
        store.jobs.cancel(project, job.id)


def test_cancel_and_claim_at_once_leave_one_outcome(store: Store, project: str, new_job: NewJob, claim: Look) -> None:
    for _ in range(5):
        job = new_job()

        def act(number: int, job_id: str = job.id) -> object:
            return store.jobs.cancel(project, job_id) if number else claim()

        claimed, _ = in_threads(2, act)

        found = store.jobs.get(project, job.id)
        if claimed is None:
            assert (found.status, found.attempt) == (Status.CANCELLED, 0)
        else:
            assert (found.status, found.wanted) == (Status.RUNNING, Wanted.CANCEL)
            store.attempts.finish(job.id, 1, status=Status.CANCELLED)


def test_a_queued_job_is_paused_and_resumed_at_once(store: Store, project: str, new_job: NewJob, claim: Look) -> None:
    job = new_job()

    paused = store.jobs.pause(project, job.id)
    assert (paused.status, paused.wanted) == (Status.PAUSED, Wanted.PAUSE)
    assert store.jobs.pause(project, job.id) == paused
    assert claim() is None

    resumed = store.jobs.resume(project, job.id)
    assert (resumed.status, resumed.wanted) == (Status.QUEUED, Wanted.RUN)
    assert store.jobs.resume(project, job.id) == resumed
    assert claim() is not None


def test_answers_of_a_cancelled_job_are_kept_by_the_next_who_takes_it(
    store: Store, project: str, running: NewJob, claim: Look
) -> None:
    paused, lost = running(kind=Kind.GENERATE), running(kind=Kind.GENERATE)
    for job in (paused, lost):
        store.attempts.add_checkpoint(job.id, 1, step=3, uri=f"store://{job.id}", digest="d", size_bytes=1)
    store.attempts.release(paused.id, 1, status=Status.PAUSED)
    store.jobs.cancel(project, lost.id)
    store.attempts.reclaim(lost.id, 1, None, "worker was silent")

    asked = store.jobs.cancel(project, paused.id)

    assert (asked.status, asked.wanted) == (Status.QUEUED, Wanted.CANCEL) and asked == store.jobs.cancel(
        project, asked.id
    )
    for _ in range(2):
        got = claim(kinds=[Kind.GENERATE])
        assert got is not None and got.job.wanted == Wanted.CANCEL
        done = store.attempts.finish(got.job.id, 2, status=Status.CANCELLED, result={"num_rows": 3})
        assert done.result == {"num_rows": 3}
    assert claim(kinds=[Kind.GENERATE]) is None
    bare = running(kind=Kind.GENERATE)
    store.attempts.release(bare.id, 1, status=Status.PAUSED)
    assert store.jobs.cancel(project, bare.id).status == Status.CANCELLED


def test_a_paused_job_can_be_cancelled(store: Store, project: str, new_job: NewJob) -> None:
    job = new_job()
    store.jobs.pause(project, job.id)

    assert store.jobs.cancel(project, job.id).status is Status.CANCELLED


@pytest.mark.parametrize("act", ["pause", "resume"])
def test_a_job_that_is_over_is_not_paused_or_resumed(store: Store, project: str, new_job: NewJob, act: str) -> None:
    job = new_job()
    store.jobs.cancel(project, job.id)

    with pytest.raises(InvalidJobState):
        getattr(store.jobs, act)(project, job.id)


@pytest.mark.parametrize("act", ["pause", "resume"])
def test_a_job_that_is_being_cancelled_is_not_paused_or_resumed(
    store: Store, project: str, running: NewJob, act: str
) -> None:
    job = running()
    store.jobs.cancel(project, job.id)

    with pytest.raises(InvalidJobState):
        getattr(store.jobs, act)(project, job.id)


def test_another_projects_job_is_not_found(store: Store, other_project: str, running: NewJob) -> None:
    job = running()

    for look in (
        store.jobs.get,
        store.jobs.cancel,
        store.jobs.pause,
        store.jobs.resume,
        store.events.list,
        store.checkpoints.list,
        store.attempts.list,
    ):
        with pytest.raises(NotFound):
            look(other_project, job.id)
    assert store.jobs.list(other_project).items == []
