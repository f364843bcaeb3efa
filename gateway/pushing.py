"""Whether a push can be made: the Hub is on, a token comes with the job, the model's files are in the storage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway.admission import record_of
from gateway.services import Services
from shared import catalog, schema
from shared.errors import Complaint
from shared.job import Kind, Status
from shared.records import Model
from shared.settings import Settings
from shared.spec import PushSpec
from shared.store.finish import MADE_MODEL
from shared.tongues import Text

TOKEN, WHERE = "hf_hub_token", "export_hub_model_id"
#: Pushes looked at for those of one model, newest first.
LATEST = 100


def unready(settings: Settings, kind: str, spec: Any, then: Iterable[Mapping[str, Any]]) -> Iterator[Complaint]:
    """What a job lacks that is a push, or that pushes will follow: they get its token."""
    if kind != Kind.PUSH and not _pushes(then):
        return
    if not settings.hub:
        yield Complaint(field=WHERE, message="cannot be pushed to: the Hub is switched off (TUNESMITH_HUB)")
    if TOKEN not in schema.secrets(spec):
        text = "is required: a push to the Hub needs a token that may write to the repository"
        yield Complaint(field=TOKEN, message=text, code="key_not_found")


def unfit(services: Services, project_id: str, spec: PushSpec) -> Iterator[Complaint]:
    name = spec.source.model_name_or_path
    record = record_of(services, project_id, name)
    if name == MADE_MODEL or (record is not None and not catalog.is_on_hub(record.uri)):
        return
    text = "is {name!r}, which lies on the Hub already: nothing of it is in the storage"
    if record is None:
        text = "is {name!r}: only models of the catalog are pushed; register it with POST /v1/models"
    yield Complaint(field="model_name_or_path", message=Text(text, name=name))


def of_model(services: Services, model: Model) -> list[dict[str, Any]]:
    """Where this very model has been pushed to, newest first."""
    jobs = services.store.jobs.list(model.project_id, kind=Kind.PUSH, status=Status.SUCCEEDED, limit=LATEST)
    done = (job for job in jobs if job.spec["model_name_or_path"] == model.name and job.created_at >= model.created_at)
    return [{"job_id": job.id, **job.result} for job in done]


def _pushes(entries: Iterable[Mapping[str, Any]]) -> bool:
    return any(entry["kind"] == Kind.PUSH or _pushes(entry.get("then") or ()) for entry in entries)
