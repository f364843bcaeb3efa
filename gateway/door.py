"""The door: a body becomes a queued job, or every complaint about it at once. Nothing invalid passes to a worker.

parse -> envelope and spec -> do its models and datasets exist? -> what the doctor has to say -> record -> wake-up.
What follows (`then`, gateway/followers.py) passes the same door now, not when its turn comes hours later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from gateway import followers
from gateway.admission import kept, missing, requires
from gateway.services import Services
from shared import catalog, request, schema
from shared.advice import doctor
from shared.errors import InvalidRequest
from shared.job import Job, Kind
from shared.records import ApiKey
from shared.spec import TrainSpec

MAX_IDEMPOTENCY_KEY_CHARS = 255


def create_job(
    services: Services,
    key: ApiKey,
    body: Mapping[str, Any],
    *,
    idempotency_key: str | None = None,
    sent: Mapping[str, Any] | None = None,
) -> tuple[Job, bool]:
    """The job and whether it is new; `sent` is kept with it for the view that made the body. Raises InvalidSpec."""
    if idempotency_key is not None and not 0 < len(idempotency_key) <= MAX_IDEMPOTENCY_KEY_CHARS:
        raise InvalidRequest(f"Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY_CHARS} characters")
    envelope, spec = request.load(body)
    complaints = list(missing(services, key.project_id, spec))
    wire = kept(services, key.project_id, spec)
    then = followers.checked(services, key.project_id, envelope.then, wire, complaints)
    if complaints:
        raise schema.refusal(complaints)
    kind = Kind(str(envelope.kind))
    job, created = services.store.jobs.create(
        key.project_id,
        kind=kind,
        spec=wire,
        name=envelope.name,
        priority=envelope.priority,
        requires=requires(services, spec),
        metadata=envelope.metadata,
        request={"suffix": envelope.suffix, **(sent or {})},
        then=then,
        fingerprint=_fingerprint(key, body),
        idempotency_key=idempotency_key,
        secrets=schema.secrets(spec),
        findings=[*_set_back(spec, wire), *_findings(services, key.project_id, spec)],
        owner=key.id,
    )
    if created:
        services.queue.send(job.id, kind.value)
    return job, created


def _set_back(spec: Any, wire: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    if schema.to_wire(spec).get("trust_remote_code") and not wire["trust_remote_code"]:
        message = "trust_remote_code is set back to false: the administrator's list does not have this model"
        advice = "Most models need no code of their own; else ask for TUNESMITH_TRUST_REMOTE_CODE to name it."
        yield {
            "severity": "info", "field": "trust_remote_code", "message": message, "advice": advice, "source": "ours"
        }  # fmt: skip


def _findings(services: Services, project_id: str, spec: Any) -> list[doctor.Finding]:
    if not isinstance(spec, TrainSpec):
        return doctor.findings(spec)
    known = [catalog.resolve_dataset(services.store, services.settings, project_id, name) for name in spec.data.dataset]
    counts = [resolved.record.num_rows for resolved in known if resolved.record is not None]
    num_rows = sum(counts) if len(counts) == len(known) else None
    return list(doctor.findings(spec, num_rows=num_rows, num_devices=spec.distributed.num_processes or 1))


def _fingerprint(key: ApiKey, body: Mapping[str, Any]) -> str:
    """Equal for the same body from the same key: the openai client repeats a POST on its own."""
    text = json.dumps([key.id, body], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
