"""What is asked of every spec before it is kept: does what it names exist, what must a worker have, may code come in?

For jobs, for what follows them and for deployments alike. What a spec may contain at all is shared/schema.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from gateway.askable import is_served
from gateway.services import Services
from shared import catalog, requirements, schema
from shared.catalog import Resolved
from shared.errors import Complaint, NotFound
from shared.fields import shown
from shared.job import TERMINAL, Job, Status
from shared.records import Model
from shared.request import CARDS
from shared.requirements import CPU
from shared.spec import SPECS, EvaluateSpec, ExportSpec, GenerateSpec, TrainSpec
from shared.store.finish import MADE_MODEL
from shared.tongues import Text

#: Longest way from a model to the base it came from: adapter, merged, quantized, and again.
MAX_LINEAGE = 32
#: Models or datasets that one field may name: each is looked up.
MAX_NAMED = 64
#: Jobs read from the ledger at once.
PAGE = 1000


def missing(services: Services, project_id: str, spec: Any, *, follows: bool = False) -> Iterator[Complaint]:
    """One complaint for each model or dataset of the spec that does not exist, with the nearest names. What `follows`
    a job may name the model that the job will make."""
    found_dataset = partial(catalog.resolve_dataset, dataset_dir=dataset_dir(spec))
    find: dict[str, Callable[..., Resolved]] = {"model": catalog.resolve_model, "dataset": found_dataset}
    for param, names in named(spec):
        if len(names) > MAX_NAMED:
            too_many = Text("has {count} entries: at most {most}", count=len(names), most=MAX_NAMED)
            yield Complaint(field=param.wire, message=too_many)
            continue
        for name in names:
            if follows and name == MADE_MODEL:
                continue
            if isinstance(spec, GenerateSpec) and param.kind == "model" and is_served(services, project_id, name):
                continue
            try:
                found = find[str(param.kind)](services.store, services.settings, project_id, name)
                wrong = None if param.kind != "model" else _no_model(found.path)
            except NotFound as error:
                wrong = error.message
            except OSError as error:  # no file can have such a name, or the import root cannot be read
                wrong = Text("cannot be looked up ({reason})", reason=error.strerror)
            if wrong is not None:
                yield Complaint(
                    field=param.wire,
                    message=Text("is {name}: {wrong}", name=shown(name), wrong=wrong),
                    code=f"{param.kind}_not_found",
                )


def _no_model(path: Path | None) -> str | None:
    """What is wrong with a path that should hold a model."""
    is_one = path is None or any((path / name).is_file() for name in ("config.json", "adapter_config.json"))
    return None if is_one else Text("a place below an import root, but no folder with a config.json")


def pinned(services: Services, project_id: str, spec: Any) -> dict[str, dict[str, str]]:
    """What the names of datasets mean now: a name means the newest upload, and a job may run long after its request."""
    found = {}
    for name in {name for param, names in named(spec) if param.kind == "dataset" for name in names}:
        with suppress(NotFound, OSError):
            meant = catalog.resolve_dataset(services.store, services.settings, project_id, name, dataset_dir(spec))
            if meant.record is not None:  # not of an import root or the Hub
                found[name] = {"id": meant.record.id, "digest": meant.record.digest}
    return found


def dataset_dir(spec: Any) -> str | None:
    return spec.data.dataset_dir if isinstance(spec, TrainSpec | EvaluateSpec) else None


def named(spec: Any) -> Iterator[tuple[Any, list[str]]]:
    """Parameters that name models or datasets, with what they name."""
    wire = schema.to_wire(spec)
    for param in schema.params(type(spec)):
        if param.kind in ("model", "dataset"):
            yield param, names_in(param.wire, wire[param.wire])


def requires(spec: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker must have, and how many of them; `asked` is `requires` of the request."""
    told = requirements.load(asked).as_dict()
    if isinstance(spec, TrainSpec):
        nodes = {"num_nodes": spec.distributed.num_nodes} if spec.distributed.num_nodes > 1 else {}
        return told | {"num_devices": spec.distributed.processes or 1, **nodes}
    if isinstance(spec, ExportSpec):
        # On the CPU it goes beside a training, whose checkpoints it may be of. Who asks for a card has one.
        asks = spec.export.export_device != CPU or not told.keys().isdisjoint(CARDS)
        return told | {"num_devices": int(asks)}
    return told | {"num_devices": int(isinstance(spec, EvaluateSpec))}


def kept(services: Services, project_id: str, spec: Any, made_from: str | None = None) -> dict[str, Any]:
    """The spec as it is stored. `trust_remote_code` stays only for models that the administrator listed and is set back
    for others: LF's own examples set it everywhere. `made_from` is what MADE_MODEL comes from."""
    wire = schema.to_wire(spec)
    if wire.get("trust_remote_code"):
        name = model_of(wire)
        listed = _base_of(services, project_id, made_from if name == MADE_MODEL else name)
        wire["trust_remote_code"] = listed in services.settings.trust_remote_code
    return wire


def user_of(services: Services, project_id: str, kind: str, names: Collection[str]) -> str | None:
    """A job that is not finished and needs a model or dataset (`kind`) of one of these names, now or in its `then`."""
    for job in _unfinished(services, project_id):
        entry = {"kind": job.kind, "spec": job.spec, "then": job.then, "request": job.request}
        if any(name in names for name in _needs(kind, [entry])):
            return job.id
    return None


def _unfinished(services: Services, project_id: str) -> Iterator[Job]:
    for status in Status:
        after, more = None, status not in TERMINAL
        while more:
            page = services.store.jobs.list(project_id, status=status, after=after, limit=PAGE)
            yield from page.items
            after, more = page.items[-1].id if page.items else None, page.has_more


def _needs(kind: str, entries: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What stored specs, and those of their followers, name as their models or datasets; of a pinned one the id."""
    for entry in entries:
        declared = schema.params(SPECS[entry["kind"]]) if entry["kind"] in SPECS else ()
        for param in declared:
            if param.kind == kind:
                named = names_in(param.wire, entry["spec"].get(param.wire))
                pinned = catalog.pins(entry.get("request") or {}) if kind == "dataset" else {}
                yield from (pinned[name]["id"] if name in pinned else name for name in named)
        yield from _needs(kind, entry.get("then") or ())


def names_in(field: str, value: Any) -> list[str]:
    """What a field names; several adapters are one text with commas, as in LF."""
    if field == "adapter_name_or_path" and isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value if isinstance(value, list) else [] if value is None else [value]


def model_of(wire: Mapping[str, Any]) -> str | None:
    """The model that a stored spec starts from."""
    return wire.get("model_name_or_path") or wire.get("model")


def record_of(services: Services, project_id: str, name: str | None) -> Model | None:
    """None: not in the catalog."""
    try:
        return services.store.models.get(project_id, name) if name else None
    except NotFound:
        return None


def _base_of(services: Services, project_id: str, name: str | None) -> str | None:
    """The model whose code it would be. Users name what jobs make: only the base's own name says where it is from."""
    for _ in range(MAX_LINEAGE):
        try:
            record = services.store.models.get(project_id, name or "")
        except NotFound:
            return name
        if record.kind == "base":
            return name
        name = record.base_model
    return None
