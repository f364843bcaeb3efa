"""From a child's announcement to a checkpoint in storage and ledger, and back; and what is never picked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from export_worker.work import ExportWork
from inference_worker.files import bring
from shared import checkpoints, folder, schema
from shared.artifact import ArtifactStore
from shared.checkpoints import Checkpoints
from shared.job import Kind
from shared.lease import Lease
from shared.metrics.counted import Metrics
from shared.records import Checkpoint, NewModel
from shared.settings import Settings
from shared.spec import DeploySpec, ExportSpec, TrainSpec
from shared.store import Store
from shared.work import Run
from trainer_worker.work import TrainWork

PUBLISHED = {
    "name": "ft:tiny:local::12345678", "kind": "adapter", "base_model": "tiny", "format": "safetensors",
    "template": None, "config": {"stage": "sft"},
}  # fmt: skip


class Training:
    """One attempt that announces checkpoints; no child is needed."""

    def __init__(self, store: Store, settings: Settings, **spec: Any):
        artifacts = ArtifactStore(settings.storage_url, settings.home / "cache")
        store.jobs.create(store.projects.default().id, kind=Kind.TRAIN, spec=spec)
        claim = store.attempts.claim_next(
            worker_id="w", kinds=[Kind.TRAIN], num_devices=1, storage_id=artifacts.storage_id()
        )
        assert claim is not None
        place = folder.make(settings, claim.job, claim.attempt)
        (place / "run.json").write_text(json.dumps({"publishes": PUBLISHED}))
        self.run = Run(
            job=claim.job, attempt=claim.attempt, folder=place, settings=settings, store=store, artifacts=artifacts
        )
        self.lease = Lease(store, claim.job.id, claim.attempt, threading.Event(), 5.0)
        self.skipped: list[tuple[int, str]] = []

    def announce(self, step: int, parts: tuple[str, ...] = ("path", "model"), **metrics: float) -> list[str]:
        """What the child writes and says; the problems that the events tell."""
        told = {}
        for part in parts:
            place = self.run.folder / "scratch" / str(step) / part
            place.mkdir(parents=True)
            (place / "weights").write_text(f"{part} {step}" * 100)
            (place / "adapter_config.json").write_text('{"r": 4}')
            told[part] = str(place)
        publisher = Checkpoints(self.run, self.lease, Metrics(CollectorRegistry()))
        publisher.add({"step": step, "metrics": metrics, **told})
        while not publisher.is_idle:
            if problems := publisher.collect():
                return problems
        return []

    def steps(self) -> list[int]:
        return [found.step for found in self.run.store.checkpoints.list(self.run.job.project_id, self.run.job.id)]

    def resume_step(self) -> int | None:
        found = checkpoints.resume_point(self.run, self._skip)
        return found[0].step if found else None

    def _skip(self, damaged: Checkpoint, why: str) -> None:
        self.skipped.append((damaged.step, why))
        self.run.store.attempts.skip_checkpoint(self.run.job.id, self.run.attempt, damaged, why)

    def file(self, step: int, part: str) -> Path:
        uri = self.run.uri("checkpoints", str(step), part)
        return Path(self.run.settings.storage_url) / uri.removeprefix("store://") / "weights"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as store:
        store.migrate()
        yield store


@pytest.fixture
def training(tmp_path: Path, store: Store) -> Training:
    return Training(store, Settings(home=tmp_path), save_total_limit=2)


def test_a_checkpoint_is_a_state_to_resume_from_and_a_model_by_its_name(training: Training) -> None:
    assert training.announce(5, loss=0.5) == []

    found = checkpoints.resume_point(training.run, training._skip)
    assert found is not None and (found[1] / "weights").read_text().startswith("path 5")
    model = training.run.store.models.get(training.run.job.project_id, "ft:tiny:local::12345678:ckpt-step-5")
    place = training.run.artifacts.local_path(model.uri)
    assert sorted(path.name for path in place.iterdir()) == ["adapter_config.json", "manifest.json", "weights"]
    assert (model.kind, model.base_model, model.config["stage"]) == ("adapter", "tiny", "sft")
    assert not (training.run.folder / "scratch" / "5").exists(), "the storage has it"


def test_the_storage_keeps_as_many_as_asked_and_the_best(training: Training) -> None:
    for step, loss in ((5, 0.9), (10, 0.1), (15, 0.5), (20, 0.6), (25, 0.7)):
        training.announce(step, eval_loss=loss)

    assert training.steps() == [10, 20, 25]
    store, storage_id = training.run.store, training.run.artifacts.storage_id()
    assert len(store.discarded.due(storage_id, grace_seconds=0)) == 4


def test_one_without_a_state_is_a_model_but_no_place_to_resume(training: Training) -> None:
    training.announce(5)
    training.announce(10, parts=("model",))

    assert training.steps() == [5, 10] and training.resume_step() == 5


@pytest.mark.parametrize("damage", ["other", "short", "gone", "manifest"])
def test_a_damaged_one_is_passed_over_for_the_one_before(training: Training, damage: str) -> None:
    training.announce(5)
    training.announce(10)
    file = training.file(10, "path")
    file.chmod(0o644)
    match damage:
        case "other":
            file.write_text(file.read_text().replace("1", "7"))
        case "short":
            file.write_text("")
        case "gone":
            file.unlink()
        case "manifest":
            file.with_name("manifest.json").write_text("{")

    assert training.resume_step() == 5
    assert [step for step, _ in training.skipped] == [10]


def test_what_was_not_uploaded_whole_is_never_picked(training: Training) -> None:
    """The worker is killed in the middle: no manifest, no row. Or a disk is full: told, and nothing is left."""
    training.announce(5)
    half = training.file(10, "path")
    half.parent.mkdir(parents=True)
    half.write_text("half")
    assert training.resume_step() == 5

    in_the_way = training.file(15, "model").parent
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where a folder should be")
    (problem,) = training.announce(15)

    assert "step 15 could not be published" in problem
    assert training.steps() == [5] and not training.file(15, "path").exists()


def test_it_is_exported_served_and_trained_on_by_its_name(training: Training) -> None:
    run, store = training.run, training.run.store
    base = run.folder / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 64}')
    sealed = run.artifacts.put_folder(base, "store://models/tiny")
    files = {"uri": sealed.uri, "digest": sealed.digest, "size_bytes": sealed.size_bytes}
    store.models.create(run.job.project_id, NewModel(name="tiny", kind="base", format="safetensors", **files))
    training.announce(5)
    name = f"{PUBLISHED['name']}:ckpt-step-5"
    place = str(run.artifacts.local_path(store.models.get(run.job.project_id, name).uri))

    export = ExportWork().run_json(spec_of(run, ExportSpec, model_name_or_path=name))
    trained = TrainWork().run_json(spec_of(run, TrainSpec, model_name_or_path=name, dataset=[]))
    served = bring(store, run.artifacts, run.settings, run.job.project_id, name, DeploySpec(model=name), run.folder)

    assert (export["model_path"], export["adapter_paths"]) == (str(run.artifacts.local_path(sealed.uri)), [place])
    assert export["lineage"]["training_job"] == run.job.id and export["lineage"]["name"] == f"{name}:merged"
    assert (trained["adapter_path"], trained["base_name"]) == (place, "tiny")
    assert (str(served.adapter), served.adapter_rank, served.context_length) == (place, 4, 64)


def spec_of(run: Run, kind: type[Any], **given: Any) -> Run:
    spec = schema.to_wire(schema.load(kind, {**given, **({"dataset": "none"} if "dataset" in given else {})}))
    return replace(run, job=replace(run.job, spec=spec | ({"dataset": []} if "dataset" in given else {})))
