"""What is said of a spec that is accepted: the doctor's findings, and those that only the catalog and workers can tell.

Nothing here refuses. A finding becomes an event of the job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway import surroundings
from gateway.admission import record_of, requires
from gateway.services import Services
from shared import catalog, schema, templates
from shared.advice import doctor, given
from shared.advice.finding import Finding, Origin, info, warning
from shared.errors import NotFound
from shared.records import Model
from shared.spec import ExportSpec, TrainSpec

#: `model_type` of the models that a template was made for; those that are not here fit any.
FAMILIES: Mapping[str, frozenset[str]] = {
    "gemma": frozenset({"gemma", "gemma2"}),
    "gemma2": frozenset({"gemma2"}),
    "llama2": frozenset({"llama"}),
    "llama3": frozenset({"llama", "mllama"}),
    "mistral": frozenset({"mistral", "mixtral"}),
    "qwen": frozenset({"qwen2", "qwen2_moe"}),
    "qwen3_nothink": frozenset({"qwen3", "qwen3_moe"}),
    "smollm": frozenset({"llama"}),
    "smollm2": frozenset({"llama"}),
    "yi": frozenset({"llama"}),
}
#: Largest tokenizer.json that is looked through, bytes; the largest known have 35 MB.
MAX_TOKENIZER_BYTES = 64 * 1024**2
#: LF's mark of a `dataset_dir` that lies on the Hub.
REMOTE = "REMOTE:"


def findings(
    services: Services, project_id: str, spec: Any, wire: Mapping[str, Any], body: Mapping[str, Any]
) -> list[Finding]:
    """`wire` is the spec as it is kept, `body` what was sent."""
    found = beside_doctor(services, project_id, spec, wire, body)
    if isinstance(spec, TrainSpec):
        found += _waits(services, spec)
        return [*found, *doctor.of_case(surroundings.known(services, project_id, spec).case(spec))]
    return [*found, *doctor.findings(spec)]


def beside_doctor(
    services: Services, project_id: str, spec: Any, wire: Mapping[str, Any], body: Mapping[str, Any]
) -> list[Finding]:
    """What only the catalog can tell, whether the job is run or planned."""
    found = [*given.remarks(type(spec), body), *_set_back(spec, wire), *_labels(spec, wire, body)]
    if isinstance(spec, TrainSpec):
        model = record_of(services, project_id, spec.model.model_name_or_path)
        found += _template(services, project_id, model, spec.data.template)
        found += _dataset_dir(services, spec.data.dataset_dir)
    if isinstance(spec, ExportSpec):
        found += _other_base(services, project_id, spec)
    return found


def _dataset_dir(services: Services, given: str) -> Iterator[Finding]:
    if given in (catalog.DATASET_DIR, catalog.ONLINE):
        return
    roots = services.settings.import_roots
    folders = catalog.description_folders(roots, given)
    if not any((root / given).resolve() in folders for root in roots):
        text = f"dataset_dir {given!r} is no folder below an import root with a dataset_info.json: it is not read."
        advice = "Leave it out: datasets are named as they were uploaded."
        if given.startswith(REMOTE):
            text = f"dataset_dir {given!r} is a description on the Hub, which is not read."
            advice = "Put that dataset_info.json below an import root, or name the datasets by their Hub ids."
        yield warning("dataset_dir", Origin.REFERENCE, text, advice)


def _set_back(spec: Any, wire: Mapping[str, Any]) -> Iterator[Finding]:
    if schema.to_wire(spec).get("trust_remote_code") and not wire["trust_remote_code"]:
        text = "trust_remote_code is set back to false: the model is not in the administrator's list."
        advice = "Leave it out; if the model does not load without, TUNESMITH_TRUST_REMOTE_CODE has to name it."
        yield warning("trust_remote_code", Origin.REFERENCE, text, advice)


def _labels(spec: Any, wire: Mapping[str, Any], body: Mapping[str, Any]) -> Iterator[Finding]:
    for param in schema.params(type(spec)):
        given = next((body[name] for name in param.names if body.get(name) is not None), None)
        if param.kind == "model" and given not in (None, wire[param.wire]):
            text = f"{given!r} is no name of the catalog but the label of a job: taken is {wire[param.wire]!r}."
            yield info(param.wire, Origin.REFERENCE, text, "Name the model itself to be sure which one it is.")


def _template(services: Services, project_id: str, model: Model | None, name: str | None) -> Iterator[Finding]:
    """Whether a named template fits the model: by its family, and by the special tokens that its tokenizer has."""
    base = model
    while base is not None and base.kind == "adapter":
        base = record_of(services, project_id, base.base_model)
    if base is None or name is None:
        return
    family = base.config.get("model_type")
    advice = "Leave template out: the model's own is used."
    if family is not None and name in FAMILIES and family not in FAMILIES[name]:
        text = f"Template {name!r} is for {', '.join(sorted(FAMILIES[name]))}; {base.name!r} is of family {family!r}."
        yield warning("template", Origin.REFERENCE, text, advice)
    elif unknown := _unknown_tokens(services, base, name):
        text = f"Template {name!r} ends answers with {unknown[0]}, which the tokenizer of {base.name!r} does not have."
        yield warning("template", Origin.REFERENCE, text, advice)


def _unknown_tokens(services: Services, model: Model, name: str) -> list[str]:
    tokens = [word for word in templates.get(name).stop_words if word.startswith("<")]
    if not tokens or catalog.is_on_hub(model.uri):
        return []
    try:
        with services.artifacts.open(f"{model.uri}/tokenizer.json") as file:
            text = file.read(MAX_TOKENIZER_BYTES)
    except NotFound:
        return []
    # As JSON has it, with and without escaped < and >.
    known = text.replace(rb"\u003c", b"<").replace(rb"\u003e", b">")
    return [token for token in tokens if f'"{token}"'.encode() not in known]


def _waits(services: Services, spec: TrainSpec) -> Iterator[Finding]:
    """Whether any worker that reported itself lately has as many devices as the job wants."""
    workers = [
        worker
        for worker in services.store.workers.list()
        if "train" in worker.kinds and worker.age_seconds < services.settings.lease_seconds
    ]
    wanted, most = requires(services, spec)["num_devices"], max((len(worker.devices) for worker in workers), default=0)
    if not workers:
        yield info("num_processes", Origin.ESTIMATE, "No training worker reports itself: the job waits until one does.")
    elif wanted > most:
        text = f"{wanted} devices are wanted, the largest training worker has {most}: the job waits for a larger one."
        yield warning("num_processes", Origin.ESTIMATE, text, f"Set num_processes to at most {most}.")


def _other_base(services: Services, project_id: str, spec: ExportSpec) -> Iterator[Finding]:
    adapter = record_of(services, project_id, spec.source.adapter_name_or_path)
    named = spec.source.model_name_or_path
    if adapter is not None and adapter.base_model not in (None, named):
        text = f"{adapter.name!r} was trained on {adapter.base_model!r}, not on {named!r}: merged, it may answer badly."
        advice = f"Name {adapter.name!r} as model_name_or_path: its base is then found."
        yield warning("adapter_name_or_path", Origin.REFERENCE, text, advice)
