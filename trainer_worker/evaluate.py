"""What an evaluation adds to the runner: two children, their inputs as local paths, and what was measured as records.

An adapter is evaluated on its base, in the chat template of its training unless the job names another. Not here:
anything that reads weights or data (trainer_worker/child/evaluation).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from shared import catalog, cores, ids, interpreters, schema
from shared.catalog import Resolved
from shared.errors import InvalidSpec, NotAllowed, NotFound
from shared.job import Kind
from shared.records import Model, NewDataset, NewEvaluation
from shared.spec import EvaluateSpec
from shared.work import Finish, Phase, Run
from trainer_worker import torchrun
from trainer_worker.work import is_adapter, resolve

#: How files of answers are marked in the catalog.
PURPOSE = "evaluate_output"
#: Of each dataset: what was measured of each sample, and the model's own answers.
FILES = ("scores", "predictions")


class EvaluateWork:
    kind = Kind.EVALUATE

    def phases(self, run: Run) -> Sequence[Phase]:
        python, num_cores, at = interpreters.trainer(run.settings), cores.available(), str(run.folder)
        child = "trainer_worker.child.evaluation"
        return [
            Phase(
                name="prepare",
                argv=[python, "-m", f"{child}.prepare", at],
                env=torchrun.environment(run.settings, num_cores=num_cores),
                needs_devices=False,
            ),
            Phase(
                name="evaluate",
                argv=[python, "-m", child, at],
                env=torchrun.environment(run.settings, devices=run.devices, num_cores=num_cores),
            ),
        ]

    def run_json(self, run: Run) -> Mapping[str, Any]:
        spec = schema.from_stored(EvaluateSpec, run.job.spec)
        base, *adapters = find_models(run, spec)
        if spec.model.trust_remote_code and base.name not in run.settings.trust_remote_code:
            raise NotAllowed(f"{base.name} may not run code of its own here", field="trust_remote_code")
        evaluated, datasets = (adapters or [base])[-1], list(find_datasets(run, spec))
        return {
            "spec": schema.to_wire(as_trained(run, spec, evaluated)),
            "model_path": base.local(run.artifacts),
            "adapter_paths": [adapter.local(run.artifacts) for adapter in adapters],
            "model_name": evaluated.name,
            "base_name": base.name,
            "eval_datasets": [dataset.as_input(run.artifacts) for dataset in datasets],
            "evaluates": evaluates(evaluated, datasets),
            "tasks_dir": run.settings.eval_tasks_dir or None,
            "hub": run.settings.hub,
        }

    def finish(self, run: Run, done: Mapping[str, Any]) -> Finish:
        # From run.json, not from the ledger again: a record that was deleted since must not cost the evaluation.
        told = json.loads((run.folder / "run.json").read_text())["evaluates"]
        files = {
            (name, what): sealed(run, name, str(found[what]), int(found["num_samples"]))
            for name, found in done["datasets"].items()
            for what in FILES
            if what in found
        }
        by_dataset = {
            name: found | {what: files[name, what].id for what in FILES if (name, what) in files}
            for name, found in done["datasets"].items()
        }
        result = {"metrics": done["metrics"], "by_dataset": by_dataset, "tasks": done["tasks"]}
        return Finish(
            # What follows may go on with the model that was found good.
            result={"model": told["model"]["model_name"], **result},
            datasets=list(files.values()),
            evaluations=list(evaluations(run, told, done)),
        )


def evaluates(model: Resolved, datasets: Iterable[Resolved]) -> dict[str, Any]:
    """What the results are of, as the ledger names it; what is no record of it has a name alone."""
    record = model.record
    return {
        "model": {"model_name": model.name, "model_id": record.id if record is not None else None},
        "datasets": {
            dataset.name: {"dataset": dataset.name}
            if dataset.record is None
            else {
                "dataset": dataset.record.name,
                "dataset_id": dataset.record.id,
                "dataset_digest": dataset.record.digest,
            }
            for dataset in datasets
        },
    }


def as_trained(run: Run, spec: EvaluateSpec, model: Resolved) -> EvaluateSpec:
    """Where the job names no template, with that of the model's training, worded as there."""
    record = model.record
    if spec.data.template is not None or record is None or record.template is None:
        return spec
    training = training_of(run, record)
    system = spec.data.default_system or training.get("default_system")
    thinking = training.get("enable_thinking", spec.data.enable_thinking)
    data = replace(spec.data, template=record.template, default_system=system, enable_thinking=thinking)
    return replace(spec, data=data)


def training_of(run: Run, record: Model) -> Mapping[str, Any]:
    """The spec of the training that made the model, an exported one's too; empty where the ledger does not know."""
    job_id = record.config.get("training_job") or record.job_id
    try:
        job = run.store.jobs.get(run.job.project_id, job_id) if job_id else None
    except NotFound:
        return {}
    return job.spec if job is not None and job.kind == Kind.TRAIN else {}


def find_models(run: Run, spec: EvaluateSpec) -> list[Resolved]:
    """The base, then the adapters in their order. Raises NotFound, InvalidSpec."""
    chain = [resolve(run, spec.model.model_name_or_path)]
    while is_adapter(chain[0]):
        chain.insert(0, resolve(run, chain[0].record.base_model))  # type: ignore[union-attr]
    chain += [resolve(run, name) for name in spec.adapters]
    known = {model.name for model in chain}
    for adapter in chain[1:]:
        if adapter.record is not None and adapter.record.base_model not in known:
            text = f"{adapter.name} was trained on {adapter.record.base_model}, not on {chain[0].name}"
            raise InvalidSpec(text, field="adapter_name_or_path")
    return chain


def find_datasets(run: Run, spec: EvaluateSpec) -> Iterator[Resolved]:
    for name in spec.data.eval_dataset:
        yield catalog.dataset_of(run.store, run.settings, run.job, name, spec.data.dataset_dir)


def sealed(run: Run, dataset: str, file: str, num_rows: int) -> NewDataset:
    """A file of the child's output, to be downloaded."""
    made = run.artifacts.put_file(run.output / file, run.uri(file))
    name = f"{run.job.name or run.job.id}.{file}"
    return NewDataset(
        id=ids.new_id("file-"), name=name, filename=name, purpose=PURPOSE, num_rows=num_rows,
        columns={"dataset": dataset}, size_bytes=made.size_bytes, digest=made.digest, uri=made.uri,
    )  # fmt: skip


def evaluations(run: Run, told: Mapping[str, Any], done: Mapping[str, Any]) -> Iterator[NewEvaluation]:
    """One for each dataset and each task."""
    common: dict[str, Any] = {**told["model"], "spec": dict(run.job.spec)}
    for name, found in done["datasets"].items():
        yield NewEvaluation(**common, **measured(found), **told["datasets"][name])
    for task in done["tasks"]:
        yield NewEvaluation(**common, **measured(task), task=task["task"])


def measured(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"num_samples": int(found["num_samples"]), "metrics": dict(found["metrics"])}
