"""What the platform knows of an export's surroundings: its base and texts, earlier exports, the room of its workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway import suitors, surroundings
from gateway.admission import MAX_LINEAGE, record_of, requires
from gateway.services import Services
from shared import catalog, requirements
from shared.advice.exports import Known, Past, Room
from shared.advice.memory import GIB
from shared.advice.shapes import Shape
from shared.errors import NotFound
from shared.job import Job, Kind, Status
from shared.records import Model, Worker
from shared.spec import ExportSpec

#: Earlier exports that seconds are taken from.
NUM_PAST = 20


def known(
    services: Services, project_id: str, spec: ExportSpec, asked: Mapping[str, Any], *, asks_hub: bool = False
) -> Known:
    """`asked` is `requires` of the request; `asks_hub` as in surroundings.known."""
    name = spec.source.model_name_or_path
    chain = [*lineage(services, project_id, name)]
    base = chain[0].name if chain else name
    adapters = [model.name for model in chain[1:]]
    adapters += spec.source.adapters
    return Known(
        base=base,
        base_bytes=size_of(services, project_id, base),
        shape=shape_of(services, project_id, base, asks_hub=asks_hub),
        dtype=spec.source.infer_dtype,
        adapters=adapters,
        texts=texts(services, project_id, spec),
        past=list(past(services, project_id)),
        room=room(services, requires(spec, asked)),
        serving=suitors.serving(services),
        takes_device=bool(requirements.num_devices(requires(spec, asked))),
    )


def lineage(services: Services, project_id: str, name: str) -> list[Model]:
    """The base and the adapters on it, first to last; empty where the catalog does not have the model."""
    found: list[Model] = []
    while len(found) < MAX_LINEAGE and (record := record_of(services, project_id, name)) is not None:
        found.insert(0, record)
        if record.kind != "adapter" or record.base_model is None:
            break
        name = record.base_model
    return found


def size_of(services: Services, project_id: str, name: str) -> int | None:
    try:
        found = catalog.resolve_model(services.store, services.settings, project_id, name)
    except (NotFound, OSError):
        return None
    if found.record is not None:
        return None if catalog.is_on_hub(found.record.uri) else found.record.size_bytes
    return _size(found.path) if found.path is not None else None


def _size(folder: Path) -> int | None:
    with suppress(OSError):
        return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return None


def shape_of(services: Services, project_id: str, name: str, *, asks_hub: bool) -> Shape | None:
    return surroundings.shape_of(services, project_id, name, asks_hub=asks_hub)


def texts(services: Services, project_id: str, spec: ExportSpec) -> list[str]:
    """Datasets that calibrate: the one that is named, else those of the training."""
    if spec.export.export_quantization_dataset:
        return [spec.export.export_quantization_dataset]
    for name in (*reversed(spec.source.adapters), spec.source.model_name_or_path):
        record = record_of(services, project_id, name)
        job = training_of(services, project_id, record) if record is not None else None
        if job is not None:
            return [str(dataset) for dataset in job.spec.get("dataset") or []]
    return []


def training_of(services: Services, project_id: str, model: Model) -> Job | None:
    job_id = model.config.get("training_job") or model.job_id
    with suppress(NotFound):
        job = services.store.jobs.get(project_id, job_id) if job_id else None
        return job if job is not None and job.kind == Kind.TRAIN else None
    return None


def past(services: Services, project_id: str) -> Iterator[Past]:
    filters: dict[str, Any] = {"kind": Kind.EXPORT, "status": Status.SUCCEEDED}
    for job in services.store.jobs.list(project_id, limit=NUM_PAST, **filters).items:
        if (base := job.result.get("base_bytes")) and job.result.get("seconds"):
            yield Past(format=str(job.result["format"]), base_bytes=base, seconds=job.result["seconds"])


def room(services: Services, required: Mapping[str, Any]) -> Room | None:
    """Of the worker that could take the export and has most room; None: none reports any."""
    able = [one for one in suitors.alive(services) if suitors.could_take(one, Kind.EXPORT, required)]
    rooms = [found for worker in able if (found := _room(worker)) is not None]
    return max(rooms, key=lambda found: found.free_bytes, default=None)


def _room(worker: Worker) -> Room | None:
    told = worker.machine.get("disk")
    if not told:
        return None
    memory = worker.machine.get("host_memory_gib")
    return Room(
        worker_id=worker.id,
        free_bytes=int(told["free_bytes"]),
        storage_free_bytes=told.get("storage_free_bytes"),
        host_memory_bytes=int(memory * GIB) if memory else None,
    )
