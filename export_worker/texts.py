"""Which datasets an export calibrates with and compares models on.

Those of the training, in the very uploads that it was trained on, unless the export names one. A dataset of the
training that was deleted since is left out and told; one that the export names must be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from shared import catalog
from shared.catalog import Resolved
from shared.errors import NotFound
from shared.job import Job
from shared.spec import ExportSpec
from shared.work import Run


def told(run: Run, spec: ExportSpec, training: Job | None) -> dict[str, Any]:
    """Members of run.json: the datasets as inputs, and the names of those that are gone."""
    used = {name: list(datasets_of(run, training, name)) for name in ("dataset", "eval_dataset")}
    calibration = [named(run, spec)] if spec.export.export_quantization_dataset else found(used["dataset"])
    return {
        "calibration": [dataset.as_input(run.artifacts) for dataset in calibration],
        "held_out": [dataset.as_input(run.artifacts) for dataset in found(used["eval_dataset"])],
        "trained_on": [dataset.as_input(run.artifacts) for dataset in found(used["dataset"])],
        "gone": [name for pairs in used.values() for name, dataset in pairs if dataset is None],
    }


def named(run: Run, spec: ExportSpec) -> Resolved:
    """Raises NotFound"""
    name = str(spec.export.export_quantization_dataset)
    try:
        return catalog.dataset_of(run.store, run.settings, run.job, name)
    except NotFound as error:
        text = "{name!r} was deleted after this export was asked for: upload it again, or name another dataset"
        raise NotFound(text, field="export_quantization_dataset", name=name) from error


def datasets_of(run: Run, training: Job | None, field: str) -> Iterator[tuple[str, Resolved | None]]:
    """What the names of this field meant to the training; None: deleted since."""
    if training is None:
        return
    for name in training.spec.get(field) or ():
        try:
            place = training.spec.get("dataset_dir")
            yield name, catalog.dataset_of(run.store, run.settings, training, name, place)
        except NotFound:
            yield name, None


def found(pairs: Iterable[tuple[str, Resolved | None]]) -> list[Resolved]:
    return [dataset for _, dataset in pairs if dataset is not None]
