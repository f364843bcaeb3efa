"""What a training adds to the runner: two children, their inputs as local paths, and their output as a new model.

Not here: anything that reads weights or data (trainer_worker/child).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import (
    adapterfiles,
    catalog,
    cores,
    fingerprint,
    folder,
    interpreters,
    methods,
    nodes,
    schema,
    templates,
    tracking,
)
from shared.catalog import Resolved
from shared.errors import InvalidSpec, NotAllowed
from shared.job import Kind
from shared.rayinit import CLUSTER_VARIABLES
from shared.records import NewModel
from shared.settings import process_environment
from shared.spec import TrainSpec
from shared.work import Finish, Phase, Run
from trainer_worker import raytrain, torchrun

#: Where the sealed output lies below the attempt.
OUTPUT = "model"
#: What a training says at its end that its job keeps.
RESULTS = (
    "metrics", "num_steps", "num_tokens", "train_loss", "best_step", "kernels", "startup_seconds", "memory_by_rank",
)  # fmt: skip
#: Part of an adapter's name where the project has no name of its own.
DEFAULT_PROJECTS = {"default": "local"}


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a training starts from."""

    base: Resolved
    #: Adapters that become part of the base first.
    merged: Sequence[Resolved]
    #: Trained on instead of a new one.
    adapter: Resolved | None


class TrainWork:
    kind = Kind.TRAIN

    def phases(self, run: Run) -> Sequence[Phase]:
        python = interpreters.trainer(run.settings)
        at, num_cores = str(run.folder), cores.available()
        count, node = folder.num_processes(run), run.node
        env = torchrun.environment(run.settings, devices=run.devices, num_processes=count, num_cores=num_cores)
        argv = torchrun.train_argv(
            python,
            at,
            num_processes=count,
            port=node.port or nodes.free_port(),
            address=node.address,
            node_rank=node.rank,
            num_nodes=node.count,
            grouped=torchrun.needs_group(schema.from_stored(TrainSpec, run.job.spec), run.devices),
        )
        network = torchrun.network(run.settings, node.address, node.interface)
        if run.job.spec.get("use_ray"):
            given = run.settings.ray_address
            argv = raytrain.train_argv(python, at, given)
            env |= raytrain.environment(given, secrets.token_hex(32))
            env |= process_environment(*CLUSTER_VARIABLES) if given else {}
        return [
            Phase(
                name="prepare",
                argv=torchrun.prepare_argv(python, at),
                env=torchrun.environment(run.settings, num_cores=num_cores),
                needs_devices=False,
            ),
            Phase(name="train", argv=argv, env=env | network | tracker_keys(run), waits=torchrun.is_single(argv)),
        ]

    def run_json(self, run: Run) -> Mapping[str, Any]:
        spec = schema.from_stored(TrainSpec, run.job.spec)
        start = find_start(run, spec)
        # Asked again here: the list may have changed since the door, and a named adapter's base is known only now.
        if spec.model.trust_remote_code and start.base.name not in run.settings.trust_remote_code:
            raise NotAllowed(f"{start.base.name} may not run code of its own here", field="trust_remote_code")
        return reference_paths(run, spec) | {
            "model_path": start.base.local(run.artifacts),
            "adapter_path": start.adapter.local(run.artifacts) if start.adapter else None,
            "merged_paths": [adapter.local(run.artifacts) for adapter in start.merged],
            "base_name": start.base.name,
            "makes": makes(spec, start),
            "publishes": publishes(run, spec, start),
            "datasets": datasets(run, spec.data.dataset, spec.data.dataset_dir),
            "eval_datasets": datasets(run, spec.data.eval_dataset, spec.data.dataset_dir),
            "reward": reward(run, spec),
            "tracking": tracked(run, spec),
        }

    def finish(self, run: Run, done: Mapping[str, Any]) -> Finish:
        # From run.json, not from the ledger again: a record that was deleted since must not cost the training.
        told = json.loads((run.folder / "run.json").read_text())["publishes"]
        sealed = run.publish(run.output, OUTPUT)
        config = told["config"] | {"metrics": dict(done["metrics"]), "held_out": done.get("held_out")}
        model = NewModel(
            **{**told, "config": config | serving(run.output, told)},
            job_id=run.job.id,
            uri=sealed.uri,
            digest=sealed.digest,
            size_bytes=sealed.size_bytes,
            metadata=dict(run.job.metadata),
        )
        result = {key: done[key] for key in RESULTS if done.get(key) is not None}
        return Finish(result={"model": model.name, "size_bytes": sealed.size_bytes, **result}, models=[model])


def serving(output: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """What whoever serves an adapter must know of its files; nothing where they do not tell."""
    try:
        found = adapterfiles.in_folder(output, own_template=told["template"] is None)
    except (OSError, ValueError):
        return {}
    return {adapterfiles.SERVING: found.as_dict()} if told["kind"] == "adapter" else {}


def publishes(run: Run, spec: TrainSpec, start: Start) -> dict[str, Any]:
    """What a model of this training is to the catalog, the last as well as that of a checkpoint."""
    return {
        "name": model_name(run, start.base.name),
        "family": family(run, start.base.name),
        "kind": makes(spec, start),
        "base_model": start.base.name,
        "format": "safetensors",
        "template": templates.settled(spec.data.template),
        "config": described(spec) | base_content(run, start),
    }


def tracked(run: Run, spec: TrainSpec) -> dict[str, Any]:
    """What the job's trackers are told; keys are not among it."""
    trackers = tracking.chosen(run.settings, spec, run.secrets)
    return {
        "trackers": trackers,
        "remote": [name for name in trackers if tracking.is_remote(name, run.settings, spec)],
        "name": run.job.name,
        "tags": [f"{name}={value}" for name, value in run.job.metadata.items()],
        "told_until": run.store.events.last_step(run.job.id),
    }


def tracker_keys(run: Run) -> dict[str, str]:
    spec = schema.from_stored(TrainSpec, run.job.spec)
    return tracking.environment(run.settings, spec, tracking.chosen(run.settings, spec, run.secrets))


def find_start(run: Run, spec: TrainSpec) -> Start:
    """A model named by the spec may itself be an adapter: then its training goes on. Raises NotFound, InvalidSpec."""
    named = resolve(run, spec.model.model_name_or_path)
    adapters = [resolve(run, name) for name in spec.model.adapters]
    base = named
    if is_adapter(named):
        if adapters:
            raise InvalidSpec(f"{named.name} is an adapter already: name its base model", field="model_name_or_path")
        base, adapters = resolve(run, named.record.base_model), [named]  # type: ignore[union-attr]
    for adapter in adapters:
        check_adapter(spec, base, adapter)
    last = None if spec.lora.create_new_adapter or not adapters else adapters.pop()
    return Start(base=base, merged=adapters, adapter=last)


def reference_paths(run: Run, spec: TrainSpec) -> dict[str, Any]:
    """Of a reference model that the spec names; an adapter of the catalog brings its base along."""
    given = spec.preference
    if given.ref_model is None:
        return {}
    named = resolve(run, given.ref_model)
    adapter = resolve(run, given.ref_model_adapters) if given.ref_model_adapters else None
    if is_adapter(named):
        if adapter is not None:
            raise InvalidSpec(f"{named.name} is an adapter already: name its base model", field="ref_model")
        named, adapter = resolve(run, named.record.base_model), named  # type: ignore[union-attr]
    return {
        "ref_model_path": named.local(run.artifacts),
        "ref_adapter_path": adapter.local(run.artifacts) if adapter else None,
    }


def makes(spec: TrainSpec, start: Start) -> str:
    """An adapter works on its base as it is; one that was trained beside a changed base is published merged into it."""
    return "merged" if start.merged or spec.changes_base() else methods.get(spec.tuning.finetuning_type).makes


def check_adapter(spec: TrainSpec, base: Resolved, adapter: Resolved) -> None:
    """Raises InvalidSpec when the adapter cannot be trained on."""
    if spec.tuning.finetuning_type != "lora":
        text = f"{adapter.name} is an adapter: export it merged first, then train that with another method than lora"
        raise InvalidSpec(text, field="finetuning_type")
    if adapter.record is not None and adapter.record.base_model != base.name:
        text = f"{adapter.name} was trained on {adapter.record.base_model}, not on {base.name}"
        raise InvalidSpec(text, field="adapter_name_or_path")


def reward(run: Run, spec: TrainSpec) -> dict[str, str | None] | None:
    """Where stage ppo finds its reward model: a whole one, an adapter on the model that is trained, or on another."""
    if spec.tuning.stage != "ppo":
        return None
    given = spec.plugged["ppo"]
    whole, adapter = given.reward_model, given.reward_model_adapters
    if given.reward_model_type == "lora":
        whole, adapter = None, whole
    found = {"model_path": whole, "adapter_path": adapter}
    return {name: resolve(run, named).local(run.artifacts) if named else None for name, named in found.items()}


def resolve(run: Run, name: str) -> Resolved:
    return catalog.resolve_model(run.store, run.settings, run.job.project_id, name)


def is_adapter(model: Resolved) -> bool:
    return model.record is not None and model.record.kind == "adapter"


def datasets(run: Run, names: Sequence[str], dataset_dir: str) -> list[dict[str, Any]]:
    found = (catalog.dataset_of(run.store, run.settings, run.job, name, dataset_dir) for name in names)
    return [dataset.as_input(run.artifacts) for dataset in found]


def model_name(run: Run, base_name: str) -> str:
    """`ft:<base>:<project>:<suffix>:<end of the job's id>`, OpenAI's form."""
    return f"{_before_the_job(run, base_name)}:{run.job.id[-8:]}"


def family(run: Run, base_name: str) -> str | None:
    """Trainings of one base under one suffix make versions of one model; None: there is no suffix."""
    return _before_the_job(run, base_name) if run.job.request.get("suffix") else None


def _before_the_job(run: Run, base_name: str) -> str:
    projects = {project.id: project.name for project in run.store.projects.list()}
    project = projects.get(run.job.project_id, "")
    suffix = run.job.request.get("suffix") or ""
    return ":".join(["ft", base_name, DEFAULT_PROJECTS.get(project, project), suffix])


def base_content(run: Run, start: Start) -> dict[str, str | None]:
    """Which weights the adapter fits, whatever is called by their name later: an export compares."""
    if start.base.record is not None:
        return {"base_digest": start.base.record.digest}
    return {"base_fingerprint": fingerprint.of_model(Path(start.base.local(run.artifacts)))}


def described(spec: TrainSpec) -> dict[str, Any]:
    """What a user of the model may want to know of its training without opening the job."""
    tuning = {"finetuning_type": spec.tuning.finetuning_type, "stage": spec.tuning.stage}
    lora = {"lora_rank": spec.lora.rank, "lora_alpha": spec.lora.alpha, "lora_target": spec.lora.target}
    data = {"datasets": spec.data.dataset, "cutoff_len": spec.data.cutoff_len, "output_dir": spec.output.output_dir}
    return tuning | data | (lora if spec.tuning.finetuning_type == "lora" else {})
