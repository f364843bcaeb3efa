"""What the platform knows of a spec's surroundings: the model's shape, the rows of its data, its workers' cards."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gateway import modelfiles
from gateway.admission import MAX_LINEAGE, record_of
from gateway.services import Services
from shared import catalog
from shared.advice import shapes
from shared.advice.cards import Cards
from shared.advice.plan import Known
from shared.errors import NotFound, Unavailable
from shared.records import Worker
from shared.spec import TrainSpec

CONFIG = "config.json"
#: Largest config.json that is read, bytes; the largest known have some 100 kB.
MAX_CONFIG_BYTES = 4 * 1024**2
#: More rows than any dataset has.
MAX_ROWS = 2**62


def known(services: Services, project_id: str, spec: TrainSpec, *, asks_hub: bool = False) -> Known:
    """`asks_hub`: whether a model of the Hub is worth a request to it, which takes seconds where there is no way."""
    return Known(
        shape=shape_of(services, project_id, spec.model.model_name_or_path, asks_hub=asks_hub),
        cards=cards_of(services, spec.distributed.num_ranks()),
        num_rows=num_rows(services, project_id, spec),
    )


def num_rows(services: Services, project_id: str, spec: TrainSpec) -> int | None:
    """Rows of the training datasets together, as many as are read of each; None where one is not in the catalog."""
    counts = []
    for name in spec.data.dataset:
        try:
            record = catalog.resolve_dataset(services.store, services.settings, project_id, name).record
        except NotFound:
            return None
        if record is None:
            return None
        drawn = int(record.columns.get("num_samples") or record.num_rows)
        counts.append(min(drawn, spec.data.max_samples or MAX_ROWS))
    return sum(counts)


def shape_of(services: Services, project_id: str, name: str, *, asks_hub: bool) -> shapes.Shape | None:
    """The shape of a model, of an adapter's base; None where no config.json can be read."""
    config = _config(services, project_id, name, asks_hub=asks_hub)
    if config is None:
        return None
    try:
        return shapes.read(config)
    except shapes.UnreadableShape:
        return None


def _config(services: Services, project_id: str, name: str, *, asks_hub: bool) -> dict[str, Any] | None:
    for _ in range(MAX_LINEAGE):
        record = record_of(services, project_id, name)
        if record is None or record.kind == "base" or record.base_model is None:
            break
        name = record.base_model
    if record is not None and "model_type" in record.config:
        return dict(record.config)
    try:
        found = catalog.resolve_model(services.store, services.settings, project_id, name)
    except (NotFound, OSError):
        return None
    on_hub = found.hub_id is not None or (record is not None and catalog.is_on_hub(record.uri))
    return _from_files(services, project_id, name) if asks_hub or not on_hub else None


def _object(content: bytes) -> dict[str, Any] | None:
    read = json.loads(content) if len(content) <= MAX_CONFIG_BYTES else None
    return read if isinstance(read, dict) else None


def _from_files(services: Services, project_id: str, name: str) -> dict[str, Any] | None:
    with TemporaryDirectory(prefix="config-") as folder, suppress(NotFound, Unavailable, OSError, ValueError):
        path = modelfiles.fetch(services, project_id, name, [CONFIG], Path(folder)) / CONFIG
        if path.is_file() and path.stat().st_size <= MAX_CONFIG_BYTES:
            return _object(path.read_bytes())
    return None


def cards_of(services: Services, count: int) -> Cards | None:
    """The cards of the largest training worker that reports its own; None: none does."""
    workers = [worker for worker in services.store.workers.list() if "train" in worker.kinds and _cards(worker)]
    if not workers:
        return None
    worker = max(workers, key=lambda worker: len(_cards(worker)))
    smallest = min(_cards(worker), key=lambda card: float(card["memory_gib"]))
    return Cards(
        kind=str(smallest["name"]),
        count=count,
        memory_gib=float(smallest["memory_gib"]),
        host_memory_gib=worker.machine.get("host_memory_gib"),
        per_host=len(_cards(worker)),
    )


def _cards(worker: Worker) -> list[dict[str, Any]]:
    return list(worker.machine.get("gpus", ()))
