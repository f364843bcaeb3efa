"""Where a model comes from, step by step (base, job, adapter, job, merged, job, quantized), and what came of it.

Told from records: each model knows the very record that it was made from, and the job that made it. One that was
deleted since is still named, so the way to the base is whole as long as its jobs are there.
"""

from __future__ import annotations

from typing import Any

from gateway.admission import MAX_LINEAGE
from gateway.services import Services
from shared import catalog
from shared.errors import NotFound
from shared.job import Kind
from shared.records import Model


def lineage(services: Services, model: Model) -> list[dict[str, Any]]:
    """Oldest first, the model itself last."""
    steps: list[dict[str, Any]] = []
    found: Model | None = model
    while found is not None and len(steps) < MAX_LINEAGE:
        steps.insert(0, _model_step(found))
        if found.job_id is not None:
            steps.insert(0, _job_step(services, found.project_id, found.job_id))
        before = _parent(services, found)
        if before is None:
            steps = [*_gone(services, found), *steps]
        found = before
    return steps


def derived(services: Services, model: Model) -> list[str]:
    """Names of the models that were made from this one."""
    return [made.name for made in services.store.models.list(model.project_id, parent_id=model.id)]


def _parent(services: Services, model: Model) -> Model | None:
    if model.parent_id is not None:
        return services.store.models.by_id(model.project_id, model.parent_id)
    # Of a checkpoint, and of models older than the registry, only the name is known.
    try:
        return services.store.models.get(model.project_id, model.parent) if model.parent else None
    except NotFound:
        return None


def _gone(services: Services, model: Model) -> list[dict[str, Any]]:
    """Of a parent that has no record: its name, and what the model still knows of how it was made."""
    steps = [_named(model.parent)] if model.parent else []
    if model.parent != model.base_model and model.base_model is not None:
        if training := model.config.get("training_job"):
            steps.insert(0, _job_step(services, model.project_id, training))
        steps.insert(0, _named(model.base_model))
    return steps


def _named(name: str | None) -> dict[str, Any]:
    return {"object": "model", "id": name, "in_catalog": False}


def _model_step(model: Model) -> dict[str, Any]:
    told = {name: getattr(model, name) for name in ("kind", "version", "format", "digest", "size_bytes")}
    return {"object": "model", "id": model.name, "in_catalog": True, **told}


def _job_step(services: Services, project_id: str, job_id: str) -> dict[str, Any]:
    try:
        job = services.store.jobs.get(project_id, job_id)
    except NotFound:
        return {"object": "job", "id": job_id}
    pins = catalog.pins(job.request)
    names = job.spec.get("dataset") or [] if job.kind == Kind.TRAIN else []
    datasets = [{"name": name, **pins.get(name, {})} for name in names]
    return {"object": "job", "id": job.id, "kind": job.kind, "name": job.name, "datasets": datasets}
