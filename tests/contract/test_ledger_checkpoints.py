"""Checkpoints in the ledger: models by name, passed over when damaged, removed with what they leave in the storage."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared import keeping
from shared.errors import Conflict, LeaseLost, NotFound
from shared.job import Job, Kind, Status
from shared.records import Checkpoint, NewEvent
from shared.store import Store

NewJob = Callable[..., Job]


def add(store: Store, job: Job, step: int, attempt: int = 1, **metrics: float) -> Checkpoint:
    """Also a model, called `name-ckpt-<step>`."""
    uri = f"store://jobs/{job.id}/{attempt}/{step}"
    store.discarded.expect([uri, f"{uri}/model"], "store-1", job_id=job.id, attempt=attempt)
    model = {"uri": f"{uri}/model", "digest": "sha256:m", "size_bytes": 5, "kind": "adapter", "base_model": "tiny"}
    return store.attempts.add_checkpoint(
        job.id, attempt, step=step, uri=uri, digest="sha256:s", size_bytes=7, metrics=metrics,
        name=f"name-ckpt-{step}", model={**model, "format": "safetensors", "template": None, "config": {"a": 1}},
    )  # fmt: skip


def test_a_checkpoint_is_found_among_the_models_of_its_project(
    store: Store, project: str, other_project: str, running: NewJob
) -> None:
    checkpoint = add(store, running(), 10, loss=0.5)

    by_name, by_id = (store.models.get(project, word) for word in ("name-ckpt-10", checkpoint.id))

    assert by_name == by_id
    assert (by_name.name, by_name.kind, by_name.base_model) == ("name-ckpt-10", "adapter", "tiny")
    assert (by_name.uri, by_name.size_bytes, by_name.job_id) == (f"{checkpoint.uri}/model", 5, checkpoint.job_id)
    assert by_name.config == {"a": 1, "checkpoint": checkpoint.id, "step": 10, "metrics": {"loss": 0.5}}
    assert store.models.list(project) == []
    with pytest.raises(NotFound):
        store.models.get(other_project, "name-ckpt-10")


def test_a_damaged_one_is_passed_over_and_its_steps_are_done_again(
    store: Store, project: str, running: NewJob, claim: Callable[..., Any]
) -> None:
    job = running()
    add(store, job, 10)
    damaged = add(store, job, 20)
    metrics = [NewEvent(type="metrics", data={"step": step}) for step in (5, 15, 25)]
    store.attempts.renew(job.id, 1, events=metrics)
    store.attempts.release(job.id, 1)
    assert claim().attempt == 2

    store.attempts.skip_checkpoint(job.id, 2, damaged, "a file is gone")

    newest = store.checkpoints.latest(job.id)
    assert newest is not None and newest.step == 10
    events = store.events.list(project, job.id)
    assert [event.data["step"] for event in events if event.type == "metrics" and not event.superseded] == [5]
    assert events[-1].level == "warning" and "step 20" in events[-1].message
    again = add(store, job, 20, attempt=2)
    assert store.checkpoints.latest(job.id) == again == store.checkpoints.get(project, "name-ckpt-20")


def test_old_ones_go_but_not_what_is_needed(
    store: Store, project: str, running: NewJob, new_job: NewJob, claim: Callable[..., Any]
) -> None:
    job = running()
    losses = {10: 0.1, 20: 0.9, 30: 0.8, 40: 0.7, 50: 0.6}
    known = [add(store, job, step, eval_loss=loss) for step, loss in losses.items()]
    new_job(spec={"model_name_or_path": "tiny", "adapter_name_or_path": "other,name-ckpt-20"})

    old = keeping.superfluous(known, {"save_total_limit": 2})
    gone = store.attempts.remove_checkpoints(job.id, 1, old, "save_total_limit is 2")

    assert [one.step for one in old] == [20, 30], "the best and the newest two are never among them"
    assert [one.step for one in gone] == [30]
    assert [one.step for one in store.checkpoints.list(project, job.id)] == [10, 20, 40, 50]
    assert store.discarded.due("store-1", grace_seconds=0) == [known[2].uri, f"{known[2].uri}/model"]
    assert store.discarded.due("store-1", grace_seconds=60) == store.discarded.due("store-2", grace_seconds=0) == []
    for uri in store.discarded.due("store-1", grace_seconds=0):
        store.discarded.forget(uri)
    assert store.discarded.due("store-1", grace_seconds=0) == []
    store.attempts.release(job.id, 1)
    with pytest.raises(LeaseLost):
        store.attempts.remove_checkpoints(job.id, 1, known[:1], "late")


def test_half_a_checkpoint_may_go_when_its_attempt_is_over(store: Store, running: NewJob) -> None:
    job = running()
    store.discarded.expect(["store://half"], "store-1", job_id=job.id, attempt=1)
    assert store.discarded.due("store-1", grace_seconds=0) == []

    store.attempts.release(job.id, 1, status=Status.QUEUED)

    assert store.discarded.due("store-1", grace_seconds=0) == ["store://half"]


def test_after_its_end_a_job_keeps_models_longer_than_states(
    store: Store, project: str, running: NewJob, new_job: NewJob
) -> None:
    job = running()
    older, newer = add(store, job, 10), add(store, job, 20)
    soon, now = (datetime.now(UTC) + timedelta(minutes=minutes) for minutes in (1, -1))
    assert store.checkpoints.expire(soon, "store-1", as_models=True) == 0, "it runs"
    with pytest.raises(Conflict, match="goes on from"):
        store.checkpoints.delete(project, job.id, newer.id)
    store.attempts.finish(job.id, 1, status=Status.SUCCEEDED)
    assert store.checkpoints.expire(now, "store-1", as_models=True) == 0, "not long enough over"
    assert store.checkpoints.expire(soon, "store-2", as_models=True) == 0, "another storage"

    assert store.checkpoints.expire(soon, "store-1", as_models=True) == 2
    assert store.checkpoints.latest(job.id) is None
    assert store.models.get(project, "name-ckpt-20").uri == f"{newer.uri}/model"
    assert store.discarded.due("store-1", grace_seconds=0) == [older.uri, newer.uri]

    assert store.events.expire(now) == 0 < store.events.expire(soon)
    assert [event.type for event in store.events.list(project, job.id)] == ["done"]
    new_job(kind=Kind.EXPORT, spec={"model_name_or_path": newer.id})
    store.checkpoints.expire(soon, "store-1", as_models=False)
    assert [one.step for one in store.checkpoints.list(project, job.id)] == [20], "an export waits for it"
    assert store.jobs.over([job.id], soon) == {job.id} and not store.jobs.over([job.id], now)
