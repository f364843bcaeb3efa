"""What an evaluation is told, from real records, and what it leaves in the ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared import folder, schema
from shared.errors import InvalidSpec
from shared.job import Kind, Status
from shared.spec import EvaluateSpec, TrainSpec
from shared.work import Run
from tests.unit.test_train_work import ADAPTER, Ledger
from tests.unit.test_train_work import ledger as ledger  # a fixture
from trainer_worker.evaluate import EvaluateWork


def claim(ledger: Ledger, **body: Any) -> Run:
    spec = schema.to_wire(schema.load(EvaluateSpec, {"model": "tiny", "dataset": "facts", **body}))
    ledger.store.jobs.create(ledger.project, kind=Kind.EVALUATE, spec=spec)
    found = ledger.store.attempts.claim_next(
        worker_id="w", kinds=[Kind.EVALUATE], num_devices=1, storage_id=ledger.artifacts.storage_id()
    )
    assert found is not None
    return Run(
        job=found.job, attempt=found.attempt, folder=folder.make(ledger.settings, found.job, found.attempt),
        devices=("cpu",), settings=ledger.settings, store=ledger.store, artifacts=ledger.artifacts,
    )  # fmt: skip


def test_an_adapter_is_evaluated_on_its_base_as_it_was_trained(ledger: Ledger) -> None:
    trained = {"model": "tiny", "dataset": "facts", "default_system": "Be brief.", "enable_thinking": False}
    training, _ = ledger.store.jobs.create(
        ledger.project, kind=Kind.TRAIN, spec=schema.to_wire(schema.load(TrainSpec, trained))
    )
    ledger.add_model("taught", kind="adapter", base_model="tiny", template="qwen3", job_id=training.id)
    told = EvaluateWork().run_json(claim(ledger, model="taught"))
    other = EvaluateWork().run_json(claim(ledger, model="taught", template="llama3"))

    assert [Path(path).name for path in told["adapter_paths"]] == ["model-taught"]
    assert (Path(told["model_path"]).name, told["model_name"], told["base_name"]) == ("model-tiny", "taught", "tiny")
    spec = told["spec"]
    assert (spec["template"], spec["default_system"], spec["enable_thinking"]) == ("qwen3", "Be brief.", False)
    assert (other["spec"]["template"], other["spec"]["default_system"]) == ("llama3", None)


def test_an_adapter_of_another_base_is_refused(ledger: Ledger) -> None:
    with pytest.raises(InvalidSpec) as raised:
        EvaluateWork().run_json(claim(ledger, model="other", adapter_name_or_path=ADAPTER))
    assert raised.value.field == "adapter_name_or_path"


def test_data_is_prepared_without_devices(ledger: Ledger) -> None:
    prepare, evaluate = EvaluateWork().phases(claim(ledger))
    assert (prepare.needs_devices, evaluate.needs_devices) == (False, True)
    assert evaluate.argv[1:3] == ["-m", "trainer_worker.child.evaluation"]


def test_results_outlive_the_records_that_they_are_of(ledger: Ledger) -> None:
    run = claim(ledger)
    (run.folder / "run.json").write_text(json.dumps(EvaluateWork().run_json(run)))
    (run.output / "generated_predictions.jsonl").write_text('{"prompt": "p", "predict": "a", "label": "a"}\n')
    record = ledger.store.datasets.get(ledger.project, "facts")
    ledger.store.datasets.delete(ledger.project, "facts")
    of_facts = {"metrics": {"eval_loss": 1.0}, "num_samples": 1, "predictions": "generated_predictions.jsonl"}
    task = {"task": "capitals", "metrics": {"acc": 0.5}, "num_samples": 4}
    done = {"metrics": {"eval_loss": 1.0}, "datasets": {"facts": of_facts}, "tasks": [task]}

    finish = EvaluateWork().finish(run, done)
    ended = ledger.store.attempts.finish(
        run.job.id, 1, status=Status.SUCCEEDED, result=dict(finish.result), datasets=finish.datasets,
        evaluations=finish.evaluations,
    )  # fmt: skip

    (file,) = finish.datasets
    assert ended.result["by_dataset"]["facts"]["predictions"] == file.id
    assert ledger.store.datasets.get(ledger.project, file.id).num_rows == 1
    on_task, on_facts = sorted(
        ledger.store.evaluations.list(ledger.project, model="tiny"), key=lambda one: one.task or "z"
    )
    assert (on_facts.dataset_id, on_facts.dataset_digest) == (record.id, record.digest)
    assert (on_task.task, on_task.metrics, on_task.num_samples) == ("capitals", {"acc": 0.5}, 4)
    assert on_facts.model_id == ledger.store.models.get(ledger.project, "tiny").id
