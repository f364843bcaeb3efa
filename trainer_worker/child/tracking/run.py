"""What a tracker is told of the run that it shows, and what it has to be able to do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from shared import schema
from shared.spec import TrainSpec
from shared.spec.tracking import Tracking

#: Below the output folder: what trackers leave in files is sealed with the model.
FOLDER = "tracking"
#: The job's secrets by which SwanLab tells a bot of Lark.
LARK = ("TUNESMITH_SECRET_SWANLAB_LARK_WEBHOOK_URL", "TUNESMITH_SECRET_SWANLAB_LARK_SECRET")
#: In a tracker's scratch folder, once it gets values.
STARTED = "started"
#: There, once it has said that it will get no more.
GIVEN_UP = "given-up"
#: Always told of a spec.
COMPARED = frozenset({
    "stage", "finetuning_type", "dataset", "template", "cutoff_len", "learning_rate", "num_train_epochs", "optim",
    "per_device_train_batch_size", "gradient_accumulation_steps", "lr_scheduler_type", "warmup_ratio", "warmup_steps",
    "weight_decay", "lora_rank", "lora_alpha", "lora_dropout", "lora_target", "seed", "schema_version",
})  # fmt: skip
#: How a training can end, from a tracker's view; a paused one goes on in the same run.
FINISHED, PAUSED, CRASHED = "finished", "paused", "crashed"


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    job_id: str
    #: For people: run_name, else the job's name, else its id.
    name: str
    tags: Sequence[str]
    #: Of the spec what is not its default, no secrets, and what the job is of.
    config: Mapping[str, Any]
    given: Tracking
    #: For what the tracker leaves with the model.
    kept: Path
    #: For everything else that it writes.
    scratch: Path
    is_resumed: bool
    #: The last step that an earlier attempt told.
    told_until: int


class Tracker(Protocol):
    #: Where people see the run; None: in its files.
    url: str | None
    #: The last step that it has already; what is told of it and of those before is no news.
    last_step: int

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self, ending: str) -> None: ...


def tracked(run: Mapping[str, Any], tracker: str) -> TrackedRun:
    """From run.json."""
    spec = schema.from_stored(TrainSpec, run["spec"])
    of_job = run["tracking"]
    kept, scratch = folders(run, tracker)
    for folder in (kept, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    return TrackedRun(
        job_id=run["job_id"],
        name=spec.output.run_name or of_job["name"] or run["job_id"],
        tags=of_job["tags"],
        config={**said(run["spec"]), "job_id": run["job_id"], "base_name": run["base_name"]},
        given=spec.tracking,
        kept=kept,
        scratch=scratch,
        is_resumed=run["resume_from"] is not None,
        told_until=of_job["told_until"],
    )


def said(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What runs are compared by, and what else somebody has decided: hundreds of defaults would hide it."""
    declared = [param for param in schema.params(TrainSpec) if not param.secret and spec.get(param.wire) is not None]
    return {
        param.wire: spec[param.wire]
        for param in declared
        if param.wire in COMPARED or spec[param.wire] != param.default
    }


def folders(run: Mapping[str, Any], tracker: str) -> tuple[Path, Path]:
    """What is sealed with the model, and what goes with the attempt."""
    return Path(run["output_dir"], FOLDER, tracker), Path(run["scratch_dir"], FOLDER, tracker)


def before(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was measured up to the checkpoint from which the attempt goes on."""
    if run["resume_from"] is None:
        return []
    state = json.loads(Path(run["resume_from"], "trainer_state.json").read_text())
    history: list[dict[str, Any]] = state["log_history"]
    return history


def named(values: Mapping[str, float]) -> dict[str, float]:
    """Under transformers' names: train/loss, eval/loss, train/rewards/chosen."""
    return {
        f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}": value
        for name, value in values.items()
    }
