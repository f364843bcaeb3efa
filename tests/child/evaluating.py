"""An evaluation's attempt folder, and its child run on it in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training import Attempt, as_dataset

from shared import schema
from shared.spec import EvaluateSpec


def make_evaluation(
    folder: Path, model: Path, datasets: Sequence[Path] = (), *, adapters: Sequence[Path] = (),
    resume_from: Path | None = None, tasks_dir: Path | None = None, **spec: Any,
) -> Attempt:  # fmt: skip
    given: dict[str, Any] = {"model": "tiny", "eval_dataset": [path.stem for path in datasets], "cutoff_len": 128}
    wire = schema.to_wire(schema.load(EvaluateSpec, given | spec))
    for name in ("output", "scratch", "logs"):
        (folder / name).mkdir(parents=True)
    run = {
        "schema_version": 1, "job_id": "evaluate-test", "attempt": 1, "kind": "evaluate", "spec": wire,
        "devices": ["cpu"], "num_processes": 1, "output_dir": str(folder / "output"),
        "scratch_dir": str(folder / "scratch"), "cache_dir": str(folder.parent / "cache"),
        "resume_from": str(resume_from) if resume_from else None, "model_path": str(model),
        "adapter_paths": [str(path) for path in adapters], "model_name": "tiny", "base_name": "tiny",
        "eval_datasets": [as_dataset(path) for path in datasets],
        "tasks_dir": str(tasks_dir) if tasks_dir else None, "hub": False,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run))
    return Attempt(folder=folder)


def evaluate_here(attempt: Attempt) -> dict[str, Any]:
    """Both phases; the data of the outcome."""
    from shared.attempt import Attempt as Told
    from trainer_worker.child.evaluation import prepare, run

    told = Told(attempt.folder)
    prepare.prepare(told)
    return run.evaluate(told)
