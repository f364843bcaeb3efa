"""The finishing transaction: the status, what was made and what follows come to be together, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from shared.job import Job, Kind, Status
from shared.records import Claim, NewDataset, NewEvaluation, NewEvent, NewModel
from shared.store import Store
from tests.contract.racing import in_threads

NewJob = Callable[..., Job]
Look = Callable[..., Claim | None]


def model(name: str = "ft:smol:local::12345678", **given: Any) -> NewModel:
    values = {"kind": "adapter", "uri": "store://m", "digest": "sha256:m", "size_bytes": 3, "format": "safetensors"}
    return NewModel(**{"name": name, **values, **given})


def dataset(**given: Any) -> NewDataset:
    values = {"name": "out", "filename": "out.jsonl", "purpose": "generate", "size_bytes": 2, "digest": "d", "uri": "u"}
    return NewDataset(**{**values, **given})


def test_a_success_brings_its_model_dataset_events_and_result(store: Store, project: str, running: NewJob) -> None:
    job = running()

    done = store.attempts.finish(
        job.id,
        1,
        status=Status.SUCCEEDED,
        result={"metrics": {"loss": 0.1}},
        models=[model(base_model="smol", config={"rank": 8}, template="chatml")],
        datasets=[dataset()],
        events=[NewEvent(type="message", message="last words")],
    )

    made = store.models.get(project, "ft:smol:local::12345678")
    assert (made.job_id, made.base_model, made.config, made.template) == (job.id, "smol", {"rank": 8}, "chatml")
    [output] = store.datasets.list(project).items
    assert done.result == {"metrics": {"loss": 0.1}, "model": made.name, "datasets": [output.id]}
    assert (done.status, done.error, done.phase) == (Status.SUCCEEDED, None, None)
    assert done.finished_at is not None
    assert store.jobs.get(project, job.id) == done
    words, last = store.events.list(project, job.id, after=2)
    assert words.message == "last words"
    assert (last.number, last.type, last.level) == (4, "done", "info")
    assert last.data == {"status": "succeeded", "result": done.result}
    assert [attempt.status for attempt in store.attempts.list(project, job.id)] == ["succeeded"]
    assert store.attempts.held() == []


def test_a_failure_says_why(store: Store, project: str, running: NewJob) -> None:
    job = running(then=[{"kind": "export", "spec": {"model_name_or_path": "$model"}}])
    error = {"code": "child_failed", "message": "CUDA out of memory", "field": "per_device_train_batch_size"}

    done = store.attempts.finish(job.id, 1, status=Status.FAILED, error=error)

    assert (done.status, done.error) == (Status.FAILED, error)
    last = store.events.list(project, job.id)[-1]
    assert (last.type, last.level, last.data) == ("done", "error", {"status": "failed", "error": error})
    assert last.message == "Job failed: CUDA out of memory"
    assert [attempt.reason for attempt in store.attempts.list(project, job.id)] == ["CUDA out of memory"]
    assert len(store.jobs.list(project)) == 1


def test_what_cannot_be_written_leaves_everything_as_it_was(store: Store, project: str, running: NewJob) -> None:
    job = running()
    before = store.events.list(project, job.id)

    with pytest.raises(IntegrityError):
        store.attempts.finish(
            job.id,
            1,
            status=Status.SUCCEEDED,
            models=[model()],
            datasets=[dataset(id="file-twice"), dataset(id="file-twice")],
        )

    assert store.jobs.get(project, job.id) == job
    assert store.events.list(project, job.id) == before
    assert store.models.list(project) == [] and store.datasets.list(project).items == []
    assert store.attempts.finish(job.id, 1, status=Status.SUCCEEDED).status is Status.SUCCEEDED


def test_a_taken_model_name_gets_a_number(store: Store, project: str, new_job: NewJob, claim: Look) -> None:
    for _ in range(3):
        new_job()
        got = claim()
        assert got is not None
        done = store.attempts.finish(got.job.id, 1, status=Status.SUCCEEDED, models=[model("smol:merged")])

    assert done.result["model"] == "smol:merged-3"
    assert [made.name for made in store.models.list(project)] == ["smol:merged", "smol:merged-2", "smol:merged-3"]


def test_jobs_that_finish_at_once_with_one_name_all_keep_their_model(
    store: Store, project: str, new_job: NewJob, claim: Look
) -> None:
    for _ in range(6):
        new_job()
    ids = [got.job.id for got in (claim() for _ in range(6)) if got]

    in_threads(
        6, lambda number: store.attempts.finish(ids[number], 1, status=Status.SUCCEEDED, models=[model("smol:merged")])
    )

    assert {made.job_id for made in store.models.list(project)} == set(ids)


def test_then_jobs_come_with_the_success_and_know_the_model(store: Store, project: str, running: NewJob) -> None:
    later = [{"kind": "deploy", "spec": {"model": "$model"}}]
    origin = {"origin": {"request_id": "req_1", "traceparent": "00-trace-span-01"}}
    job = running(
        priority=4,
        request=origin | {"suffix": "mine"},
        secrets={"hf_hub_token": "s3cret", "wandb_api_key": "other"},
        then=[
            {
                "kind": "export",
                "name": "exported",
                "metadata": {"team": "a"},
                "requires": {"num_devices": 1},
                "spec": {"model_name_or_path": "$model", "export_size": 5, "hf_hub_token": "***"},
                "then": later,
            }
        ],
    )

    store.attempts.finish(job.id, 1, status=Status.SUCCEEDED, models=[model("ft:x")])

    export = store.jobs.list(project, kind=Kind.EXPORT).items[0]
    assert export.spec == {"model_name_or_path": "ft:x", "export_size": 5, "hf_hub_token": "***"}
    assert (export.status, export.parent_id, export.priority) == (Status.QUEUED, job.id, 4)
    assert (export.name, export.metadata, export.then) == ("exported", {"team": "a"}, later)
    assert export.request == origin
    told = store.events.list(project, job.id)[-2]
    assert (told.type, told.data) == ("message", {"job_id": export.id})
    got = store.attempts.claim_next(worker_id="w", kinds=["export"], num_devices=1)
    assert got is not None and got.secrets == {"hf_hub_token": "s3cret"}


def test_then_deploys_the_model_under_a_free_name(store: Store, project: str, running: NewJob) -> None:
    store.deployments.create(project, name="bot", model_name="other", spec={})
    job = running(then=[{"kind": "deploy", "name": "bot", "spec": {"model": "$model", "replicas": 2}}])

    store.attempts.finish(job.id, 1, status=Status.SUCCEEDED, models=[model("ft:x")])

    deployment = store.deployments.get(project, "bot-2")
    assert (deployment.model_name, deployment.spec) == ("ft:x", {"model": "ft:x", "replicas": 2})
    assert [replica.status for replica in deployment.replicas] == ["pending", "pending"]


def test_a_then_that_cannot_be_does_not_cost_the_model(store: Store, project: str, running: NewJob) -> None:
    job = running(then=[{"kind": "nonsense", "spec": {}}, {"spec": {}}, {"kind": "export", "spec": {"seed": 1}}])

    done = store.attempts.finish(job.id, 1, status=Status.SUCCEEDED, models=[model("ft:x")])

    assert done.status is Status.SUCCEEDED and store.models.get(project, "ft:x")
    events = store.events.list(project, job.id, after=2)
    assert [(event.type, event.level) for event in events] == [
        ("message", "warning"),
        ("message", "warning"),
        ("message", "info"),
        ("done", "info"),
    ]
    assert len(store.jobs.list(project, kind=Kind.EXPORT)) == 1


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "export", "spec": {}, "requires": {"num_devices": 10**12}},  # too large for PostgreSQL
        {"kind": "deploy", "spec": {"model": "$model", "replicas": "many"}},
        {"kind": "export", "spec": {}, "requires": {"num_devices": "many"}},
        {"kind": "export", "spec": ["no", "object"]},
    ],
)
def test_a_then_that_the_database_refuses_does_not_cost_the_model(
    store: Store, project: str, running: NewJob, entry: dict[str, Any]
) -> None:
    job = running(then=[entry, {"kind": "export", "name": "next", "spec": {}}])

    done = store.attempts.finish(job.id, 1, status=Status.SUCCEEDED, models=[model("ft:x")])

    assert done.status is Status.SUCCEEDED and store.models.get(project, "ft:x")
    assert "next" in [made.name for made in store.jobs.list(project, kind=Kind.EXPORT)]
    assert store.deployments.list(project) == []


def test_then_without_a_model_to_name_is_a_warning(store: Store, project: str, running: NewJob) -> None:
    job = running(then=[{"kind": "export", "spec": {"model_name_or_path": "$model"}}])

    store.attempts.finish(job.id, 1, status=Status.SUCCEEDED)

    [warning, _] = store.events.list(project, job.id, after=2)
    assert warning.level == "warning" and "$model" in warning.message
    assert len(store.jobs.list(project)) == 1


def test_what_was_measured_is_found_by_model_and_by_dataset(store: Store, project: str, running: NewJob) -> None:
    job = running(kind=Kind.EVALUATE)
    common = {"model_name": "smol", "model_id": "model-1", "num_samples": 3, "spec": {"seed": 42}}
    on_rows = NewEvaluation(
        dataset="rows", dataset_id="file-1", dataset_digest="d", metrics={"eval_loss": 1.5}, **common
    )
    on_task = NewEvaluation(task="arc", metrics={"acc": 0.5, "acc_stderr": 0.1}, **common)

    store.attempts.finish(job.id, 1, status=Status.SUCCEEDED, evaluations=[on_rows, on_task])

    (found,) = store.evaluations.list(project, dataset="file-1")
    assert (found.job_id, found.metrics, found.spec) == (job.id, {"eval_loss": 1.5}, {"seed": 42})
    assert [one.dataset for one in store.evaluations.list(project, dataset="rows")] == ["rows"]
    assert [one.metrics["acc"] for one in store.evaluations.list(project, model="smol", task="arc")] == [0.5]
    assert len(store.evaluations.list(project, model_id="model-1")) == 2
    assert not store.evaluations.list(project, model_id="model-2").items
    assert not store.evaluations.list("another project").items
