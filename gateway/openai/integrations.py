"""OpenAI's `integrations` of a fine-tuning job: Weights & Biases, as report_to wandb is here, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shared.errors import Complaint
from shared.job import Job
from shared.spec.tracking import WANDB

FIELD = "integrations"
#: Members of an integration that a job's spec has a field for.
OWN_NAMES = {"project": "project", "name": "run_name"}


def complaints(given: Mapping[str, Any]) -> Iterator[Complaint]:
    asked = given.get(FIELD) or []
    if not isinstance(asked, list) or not all(isinstance(one, dict) for one in asked):
        yield Complaint(field=FIELD, message="must be a list of objects", code="invalid_type")
        return
    for one in asked:
        if one.get("type") != WANDB or not isinstance(one.get(WANDB), dict) or asked.index(one) > 0:
            message = "must be one of type wandb; other trackers are named by report_to in x_train"
            yield Complaint(field=FIELD, message=message, code="unsupported")
        elif not isinstance(one[WANDB].get("project"), str):
            yield Complaint(field=f"{FIELD}.wandb.project", message="is required: a text", code="required")
        else:
            yield from _unused(one[WANDB])


def _unused(asked: Mapping[str, Any]) -> Iterator[Complaint]:
    for name in asked:
        if name not in OWN_NAMES and asked[name]:
            message = "is not offered: the key's own entity is taken, and the job's metadata are the tags"
            yield Complaint(field=f"{FIELD}.wandb.{name}", message=message, code="unsupported")


def fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the native job says instead."""
    if not given.get(FIELD):
        return {}
    asked = given[FIELD][0][WANDB]
    own = {own: asked[name] for name, own in OWN_NAMES.items() if asked.get(name) is not None}
    return {"report_to": [WANDB], **own}


def told(job: Job) -> list[dict[str, Any]]:
    if WANDB not in job.spec.get("report_to", ()):
        return []
    tags = [f"{name}={value}" for name, value in job.metadata.items()]
    asked = {"project": job.spec.get("project"), "name": job.spec.get("run_name"), "entity": None, "tags": tags}
    return [{"type": WANDB, WANDB: asked}]
