"""Whether the models and datasets that a spec names are of a kind that its job can use. What exists is known here.

Asked at the door: a worker would find the same hours later. Names that are not in the catalog (the Hub, an import
root) say nothing of their kind and pass, but for code of their own: that is the administrator's to allow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway import adapters, askable, evaluable, generation, pushing, resuming, rewards, suitors
from gateway.admission import MAX_LINEAGE, model_of, record_of
from gateway.services import Services
from shared import catalog, engines, formats, schema, serving, stages
from shared.errors import Complaint, NotFound
from shared.formats import gguf
from shared.layout import Layout, wrong_kind
from shared.records import Model
from shared.spec import DeploySpec, EvaluateSpec, ExportSpec, GenerateSpec, PushSpec, TrainSpec
from shared.store.finish import MADE_MODEL
from shared.tongues import Text

#: What a dataset may have been uploaded for, by the field that names it.
PURPOSES = {
    "dataset": ("fine-tune",),
    "eval_dataset": ("fine-tune", "evals"),
    "export_quantization_dataset": ("fine-tune", "evals"),
}
#: In names on the Hub: formats of weights that no adapter can be trained beside.
QUANTIZED_NAME = re.compile(r"(?<![A-Za-z])(?:AWQ|GPTQ|AQLM|GGUF|EXL2)(?![A-Za-z])", re.IGNORECASE)
#: `quant_method` of weights that load as they are and train with an adapter, or are turned back into bfloat16.
TRAINABLE_QUANTIZERS = (None, "bitsandbytes", "mxfp4")


def unfit(
    services: Services, project_id: str, spec: Any, wire: Mapping[str, Any], made_from: str | None = None
) -> Iterator[Complaint]:
    """What no worker could do, with what to do instead. `wire` is the spec as it would be kept, `made_from` the model
    that the job before starts from. The names are known to exist."""
    if isinstance(spec, TrainSpec):
        yield from _training(services, project_id, spec)
        yield from rewards.unfit(services, project_id, spec)
        yield from resuming.unfit(services, project_id, spec, wire)
        yield from _nodes(services, spec)
        named = {"dataset": spec.data.dataset, "eval_dataset": spec.data.eval_dataset}
        yield from _data(services, project_id, named, spec.tuning.stage, spec.data.dataset_dir)
    if isinstance(spec, ExportSpec):
        yield from _export(services, project_id, spec)
        texts = [spec.export.export_quantization_dataset] if spec.export.export_quantization_dataset else []
        yield from _data(services, project_id, {"export_quantization_dataset": texts})
    if isinstance(spec, EvaluateSpec):
        yield from evaluable.unfit(services, project_id, spec)
        named = {"eval_dataset": spec.data.eval_dataset}
        yield from _data(services, project_id, named, spec.data.stage, spec.data.dataset_dir)
    if isinstance(spec, PushSpec):
        yield from pushing.unfit(services, project_id, spec)
    if isinstance(spec, GenerateSpec):
        yield from generation.job_complaints(services.store, project_id, spec)
        yield from askable.unfit(services, project_id, spec)
    if isinstance(spec, DeploySpec):
        yield from _serving(services, project_id, spec)
    yield from rewards.misused(services, project_id, spec)
    asked = schema.to_wire(spec).get("trust_remote_code")
    if asked and not wire["trust_remote_code"]:
        name = model_of(wire)
        yield from _code(services, project_id, (made_from if name == MADE_MODEL else name) or "")


def _nodes(services: Services, spec: TrainSpec) -> Iterator[Complaint]:
    """Each node writes its part of a checkpoint into one folder."""
    if spec.distributed.num_nodes > 1 and services.artifacts.root is None:
        told = (
            "is {count}: nodes write one checkpoint together, so TUNESMITH_STORAGE_URL must be a folder of all of them"
        )
        yield Complaint(field="num_nodes", message=Text(told, count=spec.distributed.num_nodes))


def brings_code(services: Services, project_id: str, name: str) -> bool:
    """Whether the model has Python code of its own, as its config.json says; on the Hub nobody looks, so nothing is
    known to."""
    for _ in range(MAX_LINEAGE):
        record = record_of(services, project_id, name)
        if record is None:
            return _foreign_brings_code(services, project_id, name)
        if "auto_map" in record.config:
            return True
        if record.base_model is None:
            return False
        name = record.base_model
    return True


def _foreign_brings_code(services: Services, project_id: str, name: str) -> bool:
    config = _config_of(services, project_id, name)
    return not isinstance(config, dict) or "auto_map" in config


def _config_of(services: Services, project_id: str, name: str) -> Any:
    """Of a model that is not in the catalog: empty on the Hub, where nobody looks, None where it cannot be read."""
    try:
        found = catalog.resolve_model(services.store, services.settings, project_id, name)
    except (NotFound, OSError):
        return None
    return _config(found.path) if found.path else {}


def _code(services: Services, project_id: str, name: str) -> Iterator[Complaint]:
    """Refused for a model that is known to need it. Else the switch is set back, which is harmless, and told: LF's own
    files set it everywhere."""
    if brings_code(services, project_id, name):
        text = (
            "is true, but {name!r} is not in the administrator's list of models that may run code of their own: "
            "leave it out, or ask for TUNESMITH_TRUST_REMOTE_CODE to name the model"
        )
        yield Complaint(field="trust_remote_code", message=Text(text, name=name), code="not_allowed")


def _training(services: Services, project_id: str, spec: TrainSpec) -> Iterator[Complaint]:
    model = record_of(services, project_id, spec.model.model_name_or_path)
    beside = [found for name in spec.model.adapters if (found := record_of(services, project_id, name)) is not None]
    if model is not None and model.kind == "quantized":
        message = Text("is {name!r}, which is quantized: train the model it was made from", name=model.name)
        yield _wrong("model_name_or_path", message)
    elif how := _quantized_by(services, project_id, spec.model.model_name_or_path, model):
        text = (
            "is quantized by {how}, whose weights cannot be trained beside: name the model it was made from, with "
            "quantization_bit 4 for as little memory"
        )
        yield _wrong("model_name_or_path", Text(text, how=how))
    for other in (found for found in beside if found.kind != "adapter"):
        message = Text("is {name!r}, a model of kind {kind}: must be an adapter", name=other.name, kind=other.kind)
        yield _wrong("adapter_name_or_path", message)
        return
    if model is not None and model.kind == "adapter" and spec.model.adapter_name_or_path:
        text = "is {name!r}, an adapter already: name its base {base!r}"
        message = Text(text, name=model.name, base=model.base_model)
        yield _wrong("model_name_or_path", message)
        return
    for adapter in [model] if model is not None and model.kind == "adapter" else beside:
        yield from _continued(spec, adapter)


def _quantized_by(services: Services, project_id: str, name: str, record: Model | None) -> str | None:
    """What the weights were quantized with: config.json says it; on the Hub, where nobody looks, the name may."""
    if name == MADE_MODEL:
        return None
    if record is not None and not catalog.is_on_hub(record.uri):
        config: Any = record.config
    elif (found := catalog.resolve_model(services.store, services.settings, project_id, name)).path is not None:
        config = _config(found.path)
    else:
        word = QUANTIZED_NAME.search(record.uri if record else name)
        return word[0].lower() if word else None
    told = config.get("quantization_config") if isinstance(config, dict) else None
    method = told.get("quant_method") if isinstance(told, dict) else None
    return None if method in TRAINABLE_QUANTIZERS else str(method)


def _config(folder: Path) -> Any:
    """None where config.json cannot be read."""
    try:
        return json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _continued(spec: TrainSpec, adapter: Model) -> Iterator[Complaint]:
    """The training of an adapter goes on, as an adapter on the same base."""
    if spec.tuning.finetuning_type != "lora":
        text = "is {method!r}, but {name!r} is an adapter: export it merged first"
        message = Text(text, method=spec.tuning.finetuning_type, name=adapter.name)
        yield _wrong("finetuning_type", message)
    if spec.model.model_name_or_path not in (adapter.name, adapter.base_model):
        text = "is {name!r}, which was trained on {base!r}: name that as the model"
        message = Text(text, name=adapter.name, base=adapter.base_model)
        yield _wrong("adapter_name_or_path", message)


def _serving(services: Services, project_id: str, spec: DeploySpec) -> Iterator[Complaint]:
    heeds = spec.engine == generation.HEEDING
    yield from generation.kept_complaints(spec.answering.generation, "generation", beams_heed=heeds, own={})
    yield from _servable(services, project_id, spec)
    yield from adapters.unservable(services, project_id, spec)
    adapter = record_of(services, project_id, spec.adapter_name_or_path)
    if adapter is None:
        return
    if adapter.kind != "adapter":
        message = Text("is {name!r}, a model of kind {kind}: must be an adapter", name=adapter.name, kind=adapter.kind)
        yield _wrong("adapter_name_or_path", message)
    elif spec.model not in (adapter.name, adapter.base_model):
        text = "is {name!r}, which was trained on {base!r}: name that as the model"
        message = Text(text, name=adapter.name, base=adapter.base_model)
        yield _wrong("adapter_name_or_path", message)


def _servable(services: Services, project_id: str, spec: DeploySpec) -> Iterator[Complaint]:
    """Whether a machine that serves deployments now can serve a model of this format. Where none reports itself,
    nothing is known but for formats that vLLM serves nowhere."""
    model = record_of(services, project_id, spec.model)
    made = formats.TABLE.get(model.format or "") if model is not None else None
    if model is None or made is None:
        return
    devices, width = suitors.serving(services), serving.width_of(model.config)
    is_known = bool(devices) or made.where(width) is None or spec.engine != engines.VLLM
    if is_known and (why := serving.refusal(model.name, made, devices, width, spec.engine)):
        yield Complaint(field="model", message=why, code="not_served_here")


def _export(services: Services, project_id: str, spec: ExportSpec) -> Iterator[Complaint]:
    model = record_of(services, project_id, spec.source.model_name_or_path)
    if model is not None and model.kind == "quantized":
        message = Text("is {name!r}, which is quantized already: export the model it was made from", name=model.name)
        yield _wrong("model_name_or_path", message)
    yield from evaluable.adapters(services, project_id, [spec.source.model_name_or_path, *spec.source.adapters])
    if spec.export.export_format == gguf.FORMAT.name:
        yield from _convertible(services, project_id, spec.source.model_name_or_path)


def _convertible(services: Services, project_id: str, name: str) -> Iterator[Complaint]:
    """Whether llama.cpp has the architecture; a model with code of its own is left to the worker."""
    for _ in range(MAX_LINEAGE):
        record = record_of(services, project_id, name)
        if record is None or record.kind != "adapter" or record.base_model is None:
            break
        name = record.base_model
    config = record.config if record else _config_of(services, project_id, name)
    named = config.get("architectures") if isinstance(config, dict) and "auto_map" not in config else None
    if isinstance(named, list) and named and named[0] not in gguf.ARCHITECTURES:
        text = "is 'gguf', but llama.cpp has no architecture {architecture}: it has {known}"
        message = Text(text, architecture=named[0], known=", ".join(gguf.ARCHITECTURES))
        yield _wrong("export_format", message)


def _data(
    services: Services,
    project_id: str,
    named: dict[str, list[str]],
    stage: str | None = None,
    dataset_dir: str | None = None,
) -> Iterator[Complaint]:
    """Whether each dataset was uploaded for this, and its rows are what the stage of a training learns from."""
    for field, names in named.items():
        for name in names:
            found = catalog.resolve_dataset(services.store, services.settings, project_id, name, dataset_dir)
            if found.record is not None and found.record.purpose not in PURPOSES[field]:
                allowed = " or ".join(PURPOSES[field])
                text = "is {name!r}, uploaded with purpose {purpose}: upload it with purpose {allowed}"
                message = Text(text, name=name, purpose=found.record.purpose, allowed=allowed)
                yield Complaint(field=field, message=message, code="wrong_purpose")
            elif stage and found.reading:
                kind = Layout.from_record(*found.reading).kind
                if wrong := wrong_kind(kind, stage, stages.get(stage).rows):
                    yield _wrong(field, Text("is {name!r}, which {wrong}", name=name, wrong=wrong))


def _wrong(field: str, message: str) -> Complaint:
    return Complaint(field=field, message=message, code="wrong_kind")
