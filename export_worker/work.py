"""What an export adds to the runner: from catalog records to the child's run.json, and from its output to a new model.

An export names a model of the catalog (an adapter's base is found from its record), or a base and adapters as LF does.
Texts for calibration and comparison are those of the training that made the adapter, unless the export names others.
Not here: anything that reads weights (export_worker/child).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export_worker import command, room, texts
from shared import catalog, devices, fingerprint, formats, interpreters, schema, serving, templates
from shared.catalog import Resolved
from shared.errors import ChildFailed, InvalidSpec, NotAllowed, NotFound, TunesmithError, Unavailable
from shared.job import Job, Kind
from shared.records import NewModel
from shared.settings import Settings
from shared.spec import ExportSpec
from shared.work import Finish, Phase, Run

#: Where the sealed output lies below the attempt.
OUTPUT = "model"
#: What the job's result tells of the child's.
RESULT = ("format", "method", "verification", "quantization", "size_bytes", "seconds")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What is exported, as records."""

    base: Resolved
    #: First to last, as they are merged.
    adapters: tuple[Resolved, ...]
    #: How much of each is merged.
    weights: tuple[float, ...]
    #: Name of what is exported: the last adapter, else the base.
    name: str
    #: The training that made it; None when the ledger does not know.
    training: Job | None
    #: By what that training's rows are known again (shared/witness.py); None: it told none.
    witnesses: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The interpreter that has vLLM, or why none is asked."""

    python: str = ""
    on_accelerator: bool = False
    why_not: str = ""

    def as_members(self, settings: Settings) -> dict[str, Any]:
        """Of run.json."""
        how = {"cpu_kv_cache_gib": settings.cpu_kv_cache_gib, "start_seconds": settings.replica_start_seconds}
        return {"serves": not self.why_not, "not_served": self.why_not, "serving": how}


class WrongBase(TunesmithError):
    """The base is not the one that the adapter was trained on."""

    code = "wrong_base"


class ExportWork:
    kind = Kind.EXPORT

    def phases(self, run: Run) -> Sequence[Phase]:
        python, at = interpreters.trainer(run.settings), str(run.folder)
        format_name = schema.from_stored(ExportSpec, run.job.spec).export.export_format
        env = command.environment(run.settings, str(format_name))
        holds = takes_devices(run)
        written = Phase(name="export", argv=command.argv(python, at), env=env, needs_devices=holds)
        asked = vllm_of(run)
        if asked.why_not:
            return [written]
        # As its engine wants them, and not as the phase before.
        argv = command.served_argv(asked.python, at)
        return [written, Phase(name="vllm", argv=argv, needs_devices=holds or asked.on_accelerator)]

    def run_json(self, run: Run) -> Mapping[str, Any]:
        spec = schema.from_stored(ExportSpec, run.job.spec)
        sources = find_sources(run, spec)
        if spec.source.trust_remote_code and sources.base.name not in run.settings.trust_remote_code:
            raise NotAllowed(f"{sources.base.name} may not run code of its own here", field="trust_remote_code")
        room.require(run, spec, sources.base)
        require_trained_base(run, sources)
        training = sources.training.spec if sources.training else {}
        asked = vllm_of(run)
        if asked.why_not and spec.parity.export_verify_vllm == "require":
            raise Unavailable(f"vLLM cannot be asked: {asked.why_not}", field="export_verify_vllm")
        return {
            "model_path": sources.base.local(run.artifacts),
            "base_bytes": room.size_of(sources.base),
            "adapter_paths": [adapter.local(run.artifacts) for adapter in sources.adapters],
            "adapter_weights": list(sources.weights),
            "template": chosen_template(spec, sources),
            "wording": {} if spec.source.template else trained_wording(training),
            **texts.told(run, spec, sources.training),
            "training": training or None,
            "witnesses": sources.witnesses,
            **asked.as_members(run.settings),
            "lineage": {
                "name": command.model_name(sources.name, str(spec.export.export_format), spec.export.export_dir),
                "base_name": sources.base.name,
                "source_name": sources.name,
                "datasets": list(training.get("dataset") or []),
                "training": training,
                "training_job": sources.training.id if sources.training else None,
            },
        }

    def finish(self, run: Run, done: Mapping[str, Any]) -> Finish:
        # From run.json, not from the ledger again: a record that was deleted since must not cost the finished export.
        told = json.loads((run.folder / "run.json").read_text())
        lineage = told["lineage"]
        sealed = run.publish(run.output, OUTPUT)
        said = {name: file["sha256"] for name, file in done["files"].items()}
        if said != {file.path: file.sha256 for file in sealed.files}:
            raise ChildFailed("the files of the export changed between its verification and their upload")
        model = NewModel(
            # The ledger adds a number where the name is taken.
            name=lineage["name"],
            kind=formats.get(done["format"]).makes,
            base_model=lineage["base_name"],
            job_id=run.job.id,
            uri=sealed.uri,
            digest=sealed.digest,
            size_bytes=sealed.size_bytes,
            format=done["format"],
            template=told["template"],
            config={
                "parent": lineage["source_name"],
                "training_job": lineage["training_job"],
                "output_dir": run.job.spec["export_dir"],
                "quantization": done["quantization"],
                "verification": done["verification"],
                "held_out": told["witnesses"],
            },
            metadata=dict(run.job.metadata),
        )
        result = {name: done[name] for name in RESULT} | {"base_bytes": told["base_bytes"]}
        return Finish(result=result, models=[model])


def takes_devices(run: Run) -> bool:
    """Whether it holds a device of the machine; an export on the CPU needs none and goes beside a training."""
    return bool(run.job.requires.get("num_devices"))


def vllm_of(run: Run) -> Asked:
    """Whether vLLM is to load the files before they are published."""
    spec = schema.from_stored(ExportSpec, run.job.spec)
    wish, made = spec.parity.export_verify_vllm, formats.get(str(spec.export.export_format))
    served = made.where(spec.export.export_quantization_bit)
    if wish == "off":
        return Asked(why_not="export_verify_vllm is off")
    there = devices.known(run.devices or devices.find(run.settings))
    if not any(serving.is_served(served, device) for device in there):
        return Asked(why_not=f"vLLM does not serve {made.name} on this machine")
    cards = any(device.is_gpu for device in there)
    if cards and wish == "auto" and not takes_devices(run):
        # It would wait for whoever has the cards, for hours perhaps.
        return Asked(why_not="vLLM computes on cards here, and this export holds none (export_device is cpu)")
    try:
        return Asked(python=interpreters.inference(run.settings), on_accelerator=cards)
    except Unavailable as error:
        return Asked(why_not=error.message)


def find_sources(run: Run, spec: ExportSpec) -> Sources:
    """Raises NotFound when a record has gone since the job was accepted, InvalidSpec for an adapter of another base."""
    named = resolve(run, spec.source.model_name_or_path)
    chain = [named]
    while is_adapter(chain[0]):
        chain.insert(0, resolve(run, chain[0].record.base_model))  # type: ignore[union-attr]
    found = len(chain) - 1
    chain += [resolve(run, name) for name in spec.source.adapters]
    base, *adapters = chain
    for place, adapter in enumerate(adapters, start=1):
        # No comparison of models can find this out: base and adapter fit each other in shape, and only there.
        if not any(is_base_of(before, adapter) for before in chain[:place]):
            raise InvalidSpec(of_another_base(adapter, base), field="adapter_name_or_path")
    weights = (1.0,) * found + tuple(spec.source.adapter_weights or (1.0,) * len(spec.source.adapters))
    last = next((one for one in reversed(chain) if training_job(run, one)), None)
    return Sources(
        base=base,
        adapters=tuple(adapters),
        weights=weights,
        name=chain[-1].name,
        training=training_job(run, last) if last else None,
        witnesses=last.record.config.get("held_out") if last and last.record else None,
    )


def is_base_of(model: Resolved, adapter: Resolved) -> bool:
    """Whether the adapter was trained on this model: by its content where that is known, else by its name."""
    if adapter.record is None:
        return True
    digest = adapter.record.config.get("base_digest")
    if digest is not None and model.record is not None and not is_adapter(model):
        return bool(digest == model.record.digest)
    return adapter.record.base_model in (model.name, model.record.name if model.record is not None else None)


def of_another_base(adapter: Resolved, base: Resolved) -> str:
    trained_on = adapter.record.base_model if adapter.record is not None else None
    if trained_on == base.name:
        return f"{adapter.name} was trained on an earlier model of the name {base.name}, with other weights"
    return f"{adapter.name} was trained on {trained_on}, not on {base.name}"


def require_trained_base(run: Run, sources: Sources) -> None:
    """Raises WrongBase where the base of that name has other weights than when an adapter was trained on it."""
    base = sources.base
    for adapter in sources.adapters:
        record = adapter.record
        said = record.config.get("base_fingerprint") if record and record.base_model == base.name else None
        if said and (found := fingerprint.of_model(Path(base.local(run.artifacts)))) and said != found:
            raise WrongBase(
                f"{base.name} has other weights than when {adapter.name} was trained on it: register those again "
                "under another name, and name them as model_name_or_path with the adapter beside",
                field="model_name_or_path",
            )


def resolve(run: Run, name: str) -> Resolved:
    return catalog.resolve_model(run.store, run.settings, run.job.project_id, name)


def is_adapter(model: Resolved) -> bool:
    return model.record is not None and model.record.kind == "adapter"


def training_job(run: Run, model: Resolved) -> Job | None:
    """The job that trained this model; an exported one carries it in its config."""
    if model.record is None:
        return None
    job_id = model.record.config.get("training_job") or model.record.job_id
    try:
        job = run.store.jobs.get(run.job.project_id, job_id) if job_id else None
    except NotFound:
        return None
    return job if job and job.kind == Kind.TRAIN else None


def chosen_template(spec: ExportSpec, sources: Sources) -> str | None:
    """The template that the export names, else the one of the training; None: the one in the model's own files."""
    trained_with = sources.training.spec.get("template") if sources.training else None
    return templates.settled(spec.source.template or trained_with)


def trained_wording(training: Mapping[str, Any]) -> dict[str, Any]:
    """What the training said of how its template writes: the model is served with the same."""
    said = (field.name for field in dataclasses.fields(templates.Wording))
    return {name: training[name] for name in said if name in training}
