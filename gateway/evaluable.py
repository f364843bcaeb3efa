"""Whether what an evaluation names can be evaluated: adapters on their base, a reward model, tasks that are at hand."""

from __future__ import annotations

from collections.abc import Iterator

from gateway import rewards
from gateway.admission import record_of
from gateway.services import Services
from shared import benchmarks
from shared.errors import Complaint
from shared.nearest import did_you_mean
from shared.spec import EvaluateSpec
from shared.store.finish import MADE_MODEL
from shared.tongues import Text


def unfit(services: Services, project_id: str, spec: EvaluateSpec) -> Iterator[Complaint]:
    yield from adapters(services, project_id, [spec.model.model_name_or_path, *spec.adapters])
    yield from _scores(services, project_id, spec)
    yield from _tasks(services, spec)


def adapters(services: Services, project_id: str, known: list[str]) -> Iterator[Complaint]:
    """Each was trained on the model, which `known` begins with, or on one that comes before it."""
    first = record_of(services, project_id, known[0])
    bases = {known[0], *((first.name, first.base_model) if first is not None else ())}
    for name in known[1:]:
        record = record_of(services, project_id, name)
        if record is None:
            continue
        if record.kind != "adapter":
            text = "is {name!r}, a model of kind {kind}: must be an adapter"
            yield _wrong("adapter_name_or_path", Text(text, name=name, kind=record.kind))
        elif record.base_model not in bases and known[0] != MADE_MODEL:
            text = "is {name!r}, which was trained on {base!r}: name that as the model"
            yield _wrong("adapter_name_or_path", Text(text, name=name, base=record.base_model))
        bases |= {name, record.name}


def _scores(services: Services, project_id: str, spec: EvaluateSpec) -> Iterator[Complaint]:
    name = [spec.model.model_name_or_path, *spec.adapters][-1]
    if spec.data.stage != rewards.STAGE or name == MADE_MODEL:
        return
    if rewards.look(services, project_id, name).gives_scores is False:
        text = "is {name!r}, which gives no scores: train one with stage {stage}, or set stage to dpo"
        yield _wrong("model_name_or_path", Text(text, name=name, stage=rewards.STAGE))


def _tasks(services: Services, spec: EvaluateSpec) -> Iterator[Complaint]:
    """With the Hub on the library has thousands besides, which the child knows."""
    settings = services.settings
    if settings.hub or not spec.benchmarks.tasks:
        return
    known = benchmarks.names(settings.eval_tasks_dir)
    for name in spec.benchmarks.tasks:
        if name not in known:
            text = (
                "names {name!r}: its data is not at hand; the Hub is switched off, and TUNESMITH_EVAL_TASKS_DIR has "
                "{count} tasks{near}"
            )
            message = Text(text, name=name, count=len(known), near=did_you_mean(name, known))
            yield Complaint(field="tasks", message=message, code="task_not_found")


def _wrong(field: str, message: str) -> Complaint:
    return Complaint(field=field, message=message, code="wrong_kind")
