"""`resume_from_checkpoint`: a training that goes on where another job of the project was, with its optimizer and all.

LF names a folder of the machine, or says true for the newest in `output_dir`. Here it is the name or id of a
checkpoint, a job (its newest one), or LF's own words read as labels: an `output_dir`, with or without
`/checkpoint-<step>`. What decides the course of the training must be as it was; how long it is, and what is told and
kept of it, may differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.services import Services
from shared import schema
from shared.errors import Complaint, NotFound
from shared.fields import shown
from shared.job import Job, Kind
from shared.records import Checkpoint
from shared.spec import TrainSpec
from shared.tongues import Text

FIELD = "resume_from_checkpoint"
#: LF's switch: the newest checkpoint below this job's own output_dir.
NEWEST = "true"
#: LF's folder of one checkpoint.
FOLDER = re.compile(r"(?P<label>.*?)/*checkpoint-(?P<step>\d{1,12})/*")
#: Jobs looked through for a label.
MAX_JOBS = 1000
#: What may differ from the job that is gone on from.
FREE = frozenset(
    {FIELD, "num_train_epochs", "max_steps", "do_train", "do_eval", "plot_loss", "ddp_timeout", "output_dir"}
    | {"overwrite_output_dir", "run_name", "report_to", "overwrite_cache", "preprocessing_num_workers", "hf_hub_token"}
    | {"dataloader_num_workers", "early_stopping_steps", "compute_accuracy", "eval_dataset", "eval_on_each_dataset"}
    | {"per_device_eval_batch_size", "include_num_input_tokens_seen", "include_effective_tokens_per_second"}
)
#: Beginnings of the names of more such.
FREE_GROUPS = (
    "save_",
    "eval_s",
    "eval_on_start",
    "eval_delay",
    "logging_",
    "use_swanlab",
    "swanlab_",
    "trackio_",
    "wandb_",
    "project",
)


def settled(services: Services, project_id: str, spec: Any) -> dict[str, str]:
    """The field with the id of the checkpoint that is meant; empty where there is nothing to change."""
    named = spec.train.resume_from_checkpoint if isinstance(spec, TrainSpec) else None
    if named is None:
        return {}
    label = spec.output.output_dir if named == NEWEST else named
    found = find(services, project_id, label) if label else None
    return {FIELD: found.id} if found is not None else {}


def find(services: Services, project_id: str, named: str) -> Checkpoint | None:
    store = services.store
    try:
        return store.checkpoints.get(project_id, named)
    except NotFound:
        pass
    try:
        return _newest(store.checkpoints.list(project_id, named))
    except NotFound:
        pass
    folder = FOLDER.fullmatch(named)
    label, step = (folder["label"], int(folder["step"])) if folder else (named.rstrip("/"), None)
    for job in store.jobs.list(project_id, kind=Kind.TRAIN, limit=MAX_JOBS):  # newest first
        if str(job.spec.get("output_dir") or "").rstrip("/") == label:
            known = store.checkpoints.list(project_id, job.id)
            if found := _newest([one for one in known if step in (None, one.step)]):
                return found
    return None


def unfit(services: Services, project_id: str, spec: TrainSpec, wire: Mapping[str, Any]) -> Iterator[Complaint]:
    """Why the training cannot go on from there. `wire` is the spec as it would be kept."""
    if (named := spec.train.resume_from_checkpoint) is None:
        return
    try:
        checkpoint = services.store.checkpoints.get(project_id, named)
    except NotFound:
        yield Complaint(field=FIELD, message=Text(MISSING, name=shown(named)), code="checkpoint_not_found")
        return
    if not checkpoint.is_resumable:
        message = Text(WITHOUT_STATE, name=checkpoint.name or checkpoint.id)
        yield Complaint(field=FIELD, message=message, code="not_resumable")
        return
    job = services.store.jobs.get(project_id, checkpoint.job_id)
    yield from _differences(job, wire)
    if 0 < spec.train.max_steps <= checkpoint.step:
        message = Text("is {most}: {name} has done {step} steps already", most=spec.train.max_steps,
                       name=checkpoint.id, step=checkpoint.step)  # fmt: skip
        yield Complaint(field="max_steps", message=message, code="out_of_range")


MISSING = (
    "is {name}: there is no such checkpoint; name one of GET /v1/jobs/JOB/checkpoints, a job, or the output_dir of "
    "one, with or without /checkpoint-<step>"
)
WITHOUT_STATE = (
    "is {name!r}, which holds the model alone: name it as the model (an adapter in adapter_name_or_path), and its "
    "training goes on with a new optimizer"
)


def _newest(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    return next((found for found in reversed(checkpoints) if found.is_resumable), None)


def _differences(job: Job, wire: Mapping[str, Any]) -> Iterator[Complaint]:
    before = schema.to_wire(schema.from_stored(TrainSpec, job.spec))
    for name, value in wire.items():
        is_free = name in FREE or name.startswith(FREE_GROUPS)
        if not is_free and name in before and before[name] != value:
            text = "is {value}, but {job} was trained with {before}: going on from its checkpoint needs the same"
            message = Text(text, value=shown(value), job=job.id, before=shown(before[name]))
            yield Complaint(field=name, message=message, code="differs_from_checkpoint")
