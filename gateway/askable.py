"""Whether whom a generation job asks is known here: a model of the catalog, a deployment, a version or a route.

Known is enough: what is not deployed yet is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from gateway import generation
from gateway.services import Services
from shared import catalog, routing
from shared.errors import Complaint, NotFound
from shared.fields import shown
from shared.layout import FORMATS
from shared.nearest import did_you_mean
from shared.records import Dataset
from shared.routing import Fleet
from shared.spec import GenerateSpec
from shared.tongues import Text


def is_served(services: Services, project_id: str, name: str, running: Fleet | None = None) -> bool:
    """By a deployment, or by a route, though none of its targets may be deployed now."""
    running = running or routing.fleet(services.store, project_id)
    is_route = any(route.name == name for route in running.routes)
    return is_route or bool(routing.shares(running, name, partial(routing.version, services.store, project_id)))


def unfit(services: Services, project_id: str, spec: GenerateSpec) -> Iterator[Complaint]:
    """Of the rows of a job, as far as the upload was looked through; and of the models that they name, where the job
    names none."""
    if (record := _record(services, project_id, spec.dataset)) is None:
        return
    yield from unheeded(services, project_id, record.columns.get("beams") or {}, "dataset", spec.model)
    if spec.model is None:
        if record.format in FORMATS:
            yield Complaint(field="model", message="is required: rows of training data name none", code="required")
        yield from unknown(services, project_id, record.columns.get("models") or {}, "dataset")
        yield from without_preset(services, project_id, record.columns.get("presets") or {}, "dataset")


def unknown(services: Services, project_id: str, models: Mapping[str, int], field: str) -> Iterator[Complaint]:
    """`models`: each name with the first line that has it."""
    running = routing.fleet(services.store, project_id)
    for name, line in models.items():
        if not name:
            text = Text("names no model in line {line}, and the job names none", line=line)
            yield Complaint(field=field, message=text, code="required", line=line)
        elif not is_served(services, project_id, name, running) and not _is_model(services, project_id, name):
            known = [model.name for model in services.store.models.list(project_id)]
            names = [*known, *(one.name for one in running.deployments), *(one.name for one in running.routes)]
            text = Text(
                "asks {name} in line {line}, which is no model here{near}",
                name=shown(name),
                line=line,
                near=did_you_mean(name, names),
            )
            yield Complaint(field=field, message=text, code="model_not_found", line=line)


def unheeded(
    services: Services, project_id: str, beams: Mapping[str, Mapping[str, Any]], field: str, model: str | None = None
) -> Iterator[Complaint]:
    """`beams`: each name with the first line that asks for what vLLM's beams pass over. `model` is asked instead."""
    for name, told in beams.items():
        if not generation.beams_heed(services.store, project_id, model or name):
            text = "has {member} beside beams in line {line}, which vLLM does not heed with them: leave one out"
            message = Text(text, member=told["member"], line=told["line"])
            yield Complaint(field=field, message=message, line=told["line"])


def without_preset(services: Services, project_id: str, presets: Mapping[str, int], field: str) -> Iterator[Complaint]:
    """`presets`: each name with the first line that has it."""
    known = [preset.name for preset in services.store.presets.list(project_id)] if presets else []
    for name, line in presets.items():
        if name not in known:
            near = did_you_mean(name, known)
            text = Text("names preset {name} in line {line}, which there is not{near}", name=shown(name), line=line,
                        near=near)  # fmt: skip
            yield Complaint(field=field, message=text, code="preset_not_found", line=line)


def _is_model(services: Services, project_id: str, name: str) -> bool:
    try:
        return bool(catalog.resolve_model(services.store, services.settings, project_id, name))
    except (NotFound, OSError):
        return False


def _record(services: Services, project_id: str, dataset: str) -> Dataset | None:
    try:
        return services.store.datasets.get(project_id, dataset)
    except NotFound:
        return None
