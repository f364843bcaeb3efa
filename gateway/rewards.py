"""Whether what stage ppo shall be scored by is a reward model, and fits the model that is trained.

Catalog records say it themselves, folders below an import root by their configuration files; what stays on the Hub is
looked at by the training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.admission import record_of
from gateway.services import Services
from shared import catalog
from shared.errors import Complaint, NotFound
from shared.records import Model
from shared.spec import DeploySpec, EvaluateSpec, ExportSpec, GenerateSpec, TrainSpec
from shared.store.finish import MADE_MODEL
from shared.tongues import Text

STAGE = "rm"
#: How transformers ends the name of a model with a score head, and peft the task of an adapter with one.
ARCHITECTURE, TASK = "ForSequenceClassification", "SEQ_CLS"


@dataclass(frozen=True, kw_only=True)
class Known:
    """What can be seen of a named model; None: cannot be seen."""

    name: str
    #: "base", "adapter", "merged" or "quantized".
    kind: str | None = None
    gives_scores: bool | None = None
    base: str | None = None


def unfit(services: Services, project_id: str, spec: TrainSpec) -> Iterator[Complaint]:
    if spec.tuning.stage != "ppo":
        return
    given = spec.plugged["ppo"]
    named = look(services, project_id, given.reward_model)
    if given.reward_model_type == "lora":
        yield from _adapter("reward_model", named, trained_base(services, project_id, spec))
    elif given.reward_model_adapters is not None:
        yield from _adapter("reward_model_adapters", look(services, project_id, given.reward_model_adapters), named)
        yield from _whole(named)
    else:
        yield from _whole(named)
        if named.gives_scores is False and named.kind != "adapter":
            text = "is {name!r}, which gives no scores: train one with stage {stage}"
            yield _wrong("reward_model", Text(text, name=named.name, stage=STAGE))


def misused(services: Services, project_id: str, spec: Any) -> Iterator[Complaint]:
    """A reward model where one is wanted that writes."""
    if isinstance(spec, TrainSpec) and spec.tuning.stage == STAGE:
        return
    for field, name in _writers(spec).items():
        if name and name != MADE_MODEL and look(services, project_id, name).gives_scores:
            text = "is {name!r}, a reward model: it scores answers and writes none; stage ppo is scored by one"
            yield _wrong(field, Text(text, name=name))


def _writers(spec: Any) -> dict[str, str | None]:
    """Models that the spec names to write, by field; a reward model itself is named by `reward_model`."""
    if isinstance(spec, TrainSpec):
        given, held = spec.model, spec.preference
        named = {"model_name_or_path": given.model_name_or_path, "adapter_name_or_path": given.adapter_name_or_path}
        return named | {"ref_model": held.ref_model, "ref_model_adapters": held.ref_model_adapters}
    if isinstance(spec, ExportSpec):
        source = spec.source
        return {"model_name_or_path": source.model_name_or_path, "adapter_name_or_path": source.adapter_name_or_path}
    if isinstance(spec, EvaluateSpec) and spec.data.stage != STAGE:
        return {
            "model_name_or_path": spec.model.model_name_or_path,
            "adapter_name_or_path": next(reversed(spec.adapters), None),
        }
    if isinstance(spec, DeploySpec):
        return {"model": spec.model, "adapter_name_or_path": spec.adapter_name_or_path}
    return {"model": spec.model} if isinstance(spec, GenerateSpec) else {}


def trained_base(services: Services, project_id: str, spec: TrainSpec) -> Known:
    """The model whose weights are trained, or lie below the adapter that is."""
    model = record_of(services, project_id, spec.model.model_name_or_path)
    if model is not None and model.kind == "adapter":
        return Known(name=str(model.base_model))
    return Known(name=spec.model.model_name_or_path)


def _adapter(field: str, named: Known, base: Known) -> Iterator[Complaint]:
    if named.kind not in (None, "adapter"):
        text = "is {name!r}, a whole model and no adapter: name it in reward_model"
        if field == "reward_model":
            text = "is {name!r}, a whole model and no adapter: set reward_model_type to full"
        yield _wrong(field, Text(text, name=named.name))
    elif named.gives_scores is False:
        text = "is {name!r}, which gives no scores: train an adapter with stage {stage}"
        yield _wrong(field, Text(text, name=named.name, stage=STAGE))
    elif named.base is not None and base.name not in (named.base, MADE_MODEL):
        text = "is {name!r}, which was trained on {base!r}, not on {other!r}"
        yield _wrong(field, Text(text, name=named.name, base=named.base, other=base.name))


def _whole(named: Known) -> Iterator[Complaint]:
    if named.kind == "adapter":
        text = (
            "is {name!r}, an adapter: set reward_model_type to lora, or name its base {base!r} here and the adapter "
            "in reward_model_adapters"
        )
        yield _wrong("reward_model", Text(text, name=named.name, base=named.base))
    elif named.kind == "quantized":
        text = (
            "is {name!r}, which is quantized for serving: name the model it was made from, and set "
            "reward_model_quantization_bit if it shall be loaded so"
        )
        yield _wrong("reward_model", Text(text, name=named.name))


def look(services: Services, project_id: str, name: str) -> Known:
    record = record_of(services, project_id, name)
    if record is not None:
        return Known(name=name, kind=record.kind, gives_scores=_scores(record), base=record.base_model)
    try:
        path = catalog.resolve_model(services.store, services.settings, project_id, name).path
    except (NotFound, OSError):
        path = None
    return Known(name=name) if path is None else _of_folder(name, path)


def _scores(record: Model) -> bool | None:
    if record.config.get("stage") is not None:
        return bool(record.config["stage"] == STAGE)
    return _gives_scores(record.config)


def _gives_scores(config: dict[str, Any]) -> bool | None:
    architectures = config.get("architectures")
    if not isinstance(architectures, list):
        return None
    return any(str(name).endswith(ARCHITECTURE) for name in architectures)


def _of_folder(name: str, path: Path) -> Known:
    adapter, config = _json(path / "adapter_config.json"), _json(path / "config.json")
    if adapter is not None:
        return Known(name=name, kind="adapter", gives_scores=adapter.get("task_type") == TASK)
    return Known(name=name, kind="base", gives_scores=_gives_scores(config or {}))


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _wrong(field: str, message: str) -> Complaint:
    return Complaint(field=field, message=message, code="wrong_kind")
