"""The door: a body becomes a queued job, or every complaint about it at once. Nothing invalid passes to a worker.

parse -> envelope and spec -> do its models and datasets exist? -> what the doctor has to say -> record -> wake-up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from gateway.services import Services
from shared import catalog, request, schema
from shared.advice import doctor
from shared.errors import Complaint, InvalidRequest, InvalidSpec, NotFound
from shared.job import Job, Kind
from shared.records import ApiKey
from shared.request import Envelope
from shared.spec import SPECS, TrainSpec
from shared.store.finish import MADE_MODEL

#: Where a follower's spec names the model that the job before it makes.
MODEL_FIELDS = {"export": "model_name_or_path", "train": "model_name_or_path", "generate": "model", "deploy": "model"}
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
    then = [_follower(entry, index, complaints) for index, entry in enumerate(envelope.then)]
    if complaints:
        raise schema.refusal(complaints)
    kind = Kind(str(envelope.kind))
    job, created = services.store.jobs.create(
        key.project_id,
        kind=kind,
        spec=schema.to_wire(spec),
        name=envelope.name,
        priority=envelope.priority,
        requires=requires(services, spec),
        metadata=envelope.metadata,
        request={"suffix": envelope.suffix, **(sent or {})},
        then=then,
        fingerprint=_fingerprint(key, body),
        idempotency_key=idempotency_key,
        secrets=schema.secrets(spec),
        findings=_findings(services, key.project_id, spec),
        owner=key.id,
    )
    if created:
        services.queue.send(job.id, kind.value)
    return job, created


def missing(services: Services, project_id: str, spec: Any) -> Iterator[Complaint]:
    """One complaint for each model or dataset of the spec that does not exist, with the nearest names."""
    find = {"model": catalog.resolve_model, "dataset": catalog.resolve_dataset}
    for param, value in named(spec):
        for name in value if isinstance(value, list) else [value]:
            try:
                find[str(param.kind)](services.store, services.settings, project_id, name)
            except NotFound as error:
                message = f"is {name!r}: {error.message}"
                yield Complaint(field=param.wire, message=message, code=f"{param.kind}_not_found")


def named(spec: Any) -> Iterator[tuple[Any, Any]]:
    """Parameters that name models or datasets, with what they name."""
    wire = schema.to_wire(spec)
    return ((p, wire[p.wire]) for p in schema.params(type(spec)) if p.kind in ("model", "dataset") and wire[p.wire])


def requires(services: Services, spec: Any) -> dict[str, Any]:
    """What a worker must have. Without a GPU anywhere, processes share the one device `cpu`."""
    if not isinstance(spec, TrainSpec):
        return {"num_devices": 1 if type(spec) is SPECS["export"] else 0}
    trainers = [worker for worker in services.store.workers.list() if "train" in worker.kinds]
    has_gpus = not trainers or any(device != "cpu" for worker in trainers for device in worker.devices)
    return {"num_devices": (spec.distributed.num_processes or 1) if has_gpus else 1}


def _findings(services: Services, project_id: str, spec: Any) -> list[doctor.Finding]:
    if not isinstance(spec, TrainSpec):
        return []
    known = [catalog.resolve_dataset(services.store, services.settings, project_id, name) for name in spec.data.dataset]
    counts = [resolved.record.num_rows for resolved in known if resolved.record is not None]
    num_rows = sum(counts) if len(counts) == len(known) else None
    return list(doctor.findings(spec, num_rows=num_rows, num_devices=spec.distributed.num_processes or 1))


def _follower(entry: Mapping[str, Any], index: int, complaints: list[Complaint]) -> dict[str, Any]:
    """An entry of `then` as the ledger takes it: kind, spec with all defaults, and the rest of its envelope."""
    kind, names = str(entry["kind"]), {param.wire for param in schema.params(Envelope)}
    # A deployment's name is a field of its spec.
    names -= {"name"} if kind == "deploy" else set()
    fields = {name: value for name, value in entry.items() if name not in names}
    fields.setdefault(MODEL_FIELDS[kind], MADE_MODEL)
    try:
        envelope = schema.load(Envelope, {n: v for n, v in entry.items() if n in names - {"kind", "then"}})
        spec: Any = schema.load(SPECS[kind], fields)
    except InvalidSpec as error:
        complaints += [replace(found, field=f"then[{index}].{found.field}") for found in error.complaints]
        return {}
    secret = [param.wire for param in schema.params(SPECS[kind]) if param.secret and param.wire in fields]
    complaints += [Complaint(field=f"then[{index}].{name}", message="give it to the job itself") for name in secret]
    made = {"kind": kind, "spec": schema.to_wire(spec), "metadata": envelope.metadata, "priority": envelope.priority}
    return made | ({"name": envelope.name} if envelope.name else {})


def _fingerprint(key: ApiKey, body: Mapping[str, Any]) -> str:
    """Equal for the same body from the same key: the openai client repeats a POST on its own."""
    text = json.dumps([key.id, body], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
