"""The door: a body becomes a queued job, or every complaint about it at once. Nothing invalid passes to a worker.

parse -> envelope and spec -> do its models and datasets exist (gateway/admission.py), and fit (gateway/fitness.py)?
-> what there is to say of it (gateway/remarks.py) -> record -> wake-up.
What follows (`then`, gateway/followers.py) passes the same door now, not when its turn comes hours later.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from gateway import followers, generation, labels, priorities, pushing, remarks, suitors
from gateway.admission import kept, missing, pinned, requires
from gateway.fitness import unfit
from gateway.http import origin, span
from gateway.services import Services
from shared import catalog, request, schema, tracking
from shared.errors import Conflict, InvalidRequest
from shared.job import Job, Kind
from shared.records import ApiKey
from shared.spec import TrainSpec
from shared.tongues import Text

log = logging.getLogger(__name__)

MAX_IDEMPOTENCY_KEY_CHARS = 255


class IdempotencyKeyReused(InvalidRequest):
    """This Idempotency-Key came with another body before."""

    # Not 409, which clients send again on their own.
    status, code = 422, "idempotency_key_reused"


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
        message = Text("Idempotency-Key must have 1 to {most} characters", most=MAX_IDEMPOTENCY_KEY_CHARS)
        raise InvalidRequest(message, field="Idempotency-Key")
    envelope, given = request.load(generation.filled(services.store, key.project_id, body))
    spec = labels.settled(services, key.project_id, given)
    wire = kept(services, key.project_id, spec)
    complaints = list(missing(services, key.project_id, spec)) or list(unfit(services, key.project_id, spec, wire))
    if isinstance(spec, TrainSpec):
        complaints += tracking.missing(services.settings, spec, schema.secrets(spec))
    complaints += priorities.complaints(services, key, envelope.priority)
    then = followers.checked(services, key.project_id, envelope.then, wire, complaints)
    complaints += priorities.of_followers(services, key, then)
    complaints += pushing.unready(services.settings, str(envelope.kind), spec, then)
    if complaints:
        raise schema.refusal(complaints)
    pins = pinned(services, key.project_id, spec)
    required = requires(spec, envelope.requires)
    said = remarks.findings(services, key.project_id, spec, wire, body)
    new = {
        "kind": Kind(str(envelope.kind)),
        "spec": wire,
        "name": envelope.name,
        "priority": envelope.priority,
        "requires": required,
        "metadata": envelope.metadata,
        "request": {"suffix": envelope.suffix, catalog.PINS: pins, **origin().envelope(), **(sent or {})},
        "then": then,
        # A new upload of the same name makes the same body another request; a key says itself that it is the same.
        "fingerprint": _fingerprint(key, body if idempotency_key else {**body, catalog.PINS: pins}),
        "idempotency_key": idempotency_key,
        "secrets": schema.secrets(spec),
        "findings": [found.as_dict() for found in (*said, *suitors.remarks(services, str(envelope.kind), required))],
        "owner": key.id,
    }
    return _record(services, key.project_id, new)


def _record(services: Services, project_id: str, new: dict[str, Any]) -> tuple[Job, bool]:
    try:
        job, created = services.store.jobs.create(project_id, **new)
    except Conflict as error:  # of the key: nothing else of a new job can be taken
        raise IdempotencyKeyReused(error.message, field="Idempotency-Key") from error
    if created:
        log.info("Queued a %s job", job.kind, extra={"job_id": job.id})
        span().tell(job_id=job.id)
        enqueued = services.tracer.start("enqueue", span().traceparent, kind="producer", job_id=job.id)
        sent = services.queue.send(job.id, job.kind.value)
        enqueued.end(error="" if sent else "the broker is away")
    return job, created


def _fingerprint(key: ApiKey, body: Mapping[str, Any]) -> str:
    """Equal for the same body from the same key: the openai client repeats a POST on its own."""
    text = json.dumps([key.id, body], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
