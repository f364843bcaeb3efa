"""What the janitor deletes and what it leaves, on a real ledger, a real storage and real folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import folder
from shared.artifact import ArtifactStore
from shared.janitor import Janitor
from shared.job import Job, Kind, Status
from shared.records import NewModel
from shared.settings import Settings
from shared.store import Store
from shared.work import Run


class Place:
    def __init__(self, home: Path, store: Store, settings: Settings):
        self.store, self.settings = store, settings
        self.artifacts = ArtifactStore(settings.storage_url, home / "cache")
        self.janitor = Janitor(store, self.artifacts, settings, grace_seconds=0)

    def claim(self) -> tuple[Job, int, Path]:
        self.store.jobs.create(self.store.projects.default().id, kind=Kind.TRAIN, spec={})
        claim = self.store.attempts.claim_next(
            worker_id="w", kinds=[Kind.TRAIN], num_devices=1, storage_id=self.artifacts.storage_id()
        )
        assert claim is not None
        place = folder.make(self.settings, claim.job, claim.attempt)
        (place / "scratch" / "large").write_text("x")
        (place / "logs" / "rank0.log").write_text("said")
        return claim.job, claim.attempt, place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    settings = Settings(home=tmp_path / "home", keep_logs_days=1e-9, keep_states_days=1e-9)
    with Store(settings.database_url) as store:
        store.migrate()
        yield Place(tmp_path, store, settings)


def test_half_an_upload_goes_when_its_attempt_is_dead_and_not_before(place: Place) -> None:
    job, attempt, _ = place.claim()
    uri = place.artifacts.uri("jobs", job.id, "attempts", "1", "checkpoints", "5", "state")
    place.store.discarded.expect([uri], place.artifacts.storage_id(), job_id=job.id, attempt=attempt)
    half = Path(place.settings.storage_url) / uri.removeprefix("store://")
    half.mkdir(parents=True)
    (half / "optimizer.pt").write_text("half")

    place.janitor.clean()
    assert half.exists()
    place.store.attempts.reclaim(job.id, attempt, 0, "killed")
    place.janitor.clean()

    assert not half.exists()
    assert place.store.discarded.due(place.artifacts.storage_id(), grace_seconds=0) == []


def test_a_dead_attempts_bulk_goes_at_once_and_its_logs_later(place: Place) -> None:
    held = place.claim()[2]
    job, attempt, dead = place.claim()
    place.store.attempts.release(job.id, attempt)

    place.janitor.clean()

    assert (held / "scratch" / "large").exists()
    assert not (dead / "scratch").exists() and (dead / "logs" / "rank0.log").exists()
    place.store.jobs.cancel(job.project_id, job.id)
    place.janitor.clean()
    assert not dead.exists() and held.exists()


def test_a_checkpoint_leaves_ledger_and_storage_but_for_its_model(place: Place, tmp_path: Path) -> None:
    job, attempt, work = place.claim()
    sealed = {}
    for part in ("state", "model"):
        (work / "output" / part).mkdir()
        (work / "output" / part / "file").write_text(part)
        sealed[part] = place.artifacts.put_folder(work / "output" / part, f"store://jobs/{job.id}/5/{part}")
    model = {"uri": sealed["model"].uri, "digest": sealed["model"].digest, "size_bytes": 5, "kind": "adapter"}
    place.store.attempts.add_checkpoint(
        job.id, attempt, step=5, uri=sealed["state"].uri, digest=sealed["state"].digest, size_bytes=5,
        name="ckpt-step-5", model={**model, "base_model": "tiny", "format": "safetensors", "template": None},
    )  # fmt: skip
    place.janitor.clean()
    assert place.artifacts.exists(sealed["state"].uri)
    place.store.attempts.release(job.id, attempt)
    place.store.jobs.cancel(job.project_id, job.id)

    place.janitor.clean()

    (checkpoint,) = place.store.checkpoints.list(job.project_id, job.id)
    assert not checkpoint.is_resumable and not place.artifacts.exists(sealed["state"].uri)
    assert place.artifacts.exists(place.store.models.get(job.project_id, "ckpt-step-5").uri)


@pytest.mark.parametrize("is_finished", [True, False])
def test_an_output_stays_only_with_its_record(place: Place, is_finished: bool) -> None:
    job, attempt, work = place.claim()
    run = Run(
        job=job, attempt=attempt, folder=work, settings=place.settings, store=place.store, artifacts=place.artifacts
    )
    (run.output / "weights").write_text("learned")
    sealed = run.publish(run.output, "model")
    files = {"uri": sealed.uri, "digest": sealed.digest, "size_bytes": sealed.size_bytes, "format": "safetensors"}

    if is_finished:
        made = NewModel(name="made", kind="merged", **files)  # type: ignore[arg-type]
        place.store.attempts.finish(job.id, attempt, status=Status.SUCCEEDED, models=[made])
    else:
        place.store.attempts.reclaim(job.id, attempt, 0, "killed after the upload")
    place.janitor.clean()

    assert place.artifacts.exists(sealed.uri) == is_finished
