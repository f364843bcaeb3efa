"""What is said of a spec that is accepted: the doctor's findings, and those that only the catalog and workers can tell.

Nothing here refuses. A finding becomes an event of the job.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gateway import exportplans, modelfiles, surroundings
from gateway.admission import record_of
from gateway.services import Services
from shared import catalog, predicting, schema, vocabulary
from shared.advice import doctor, exports, given, idle, wording
from shared.advice.finding import Finding, Origin, info, warning
from shared.advice.wording import Own
from shared.errors import NotFound
from shared.records import Model
from shared.spec import ExportSpec, TrainSpec
from shared.spec.data import Data
from shared.tongues import Text

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
        return [*found, *doctor.of_case(surroundings.known(services, project_id, spec).case(spec))]
    if isinstance(spec, ExportSpec):
        found += exports.findings(spec, exportplans.known(services, project_id, spec, body.get("requires") or {}))
    return doctor.by_severity([*found, *doctor.findings(spec)])


def beside_doctor(
    services: Services, project_id: str, spec: Any, wire: Mapping[str, Any], body: Mapping[str, Any]
) -> list[Finding]:
    """What only the catalog can tell, whether the job is run or planned."""
    found = [
        *given.remarks(type(spec), body),
        *idle.remarks(spec, body),
        *predicting.remarks(spec, body),
        *_set_back(spec, wire),
        *_labels(spec, wire, body),
    ]
    if isinstance(spec, TrainSpec):
        model = record_of(services, project_id, spec.model.model_name_or_path)
        found += _template(services, project_id, model, spec.data)
        found += _dataset_dir(services, spec.data.dataset_dir)
    return found


def _dataset_dir(services: Services, given: str) -> Iterator[Finding]:
    if given in (catalog.DATASET_DIR, catalog.ONLINE):
        return
    roots = services.settings.import_roots
    folders = catalog.description_folders(roots, given)
    if not any((root / given).resolve() in folders for root in roots):
        told = "dataset_dir {given!r} is no folder below an import root with a dataset_info.json: it is not read."
        text = Text(told, given=given)
        advice = "Leave it out: datasets are named as they were uploaded."
        if given.startswith(REMOTE):
            text = Text("dataset_dir {given!r} is a description on the Hub, which is not read.", given=given)
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
            told = "{given!r} is no name of the catalog but the label of a job: taken is {taken!r}."
            text = Text(told, given=given, taken=wire[param.wire])
            yield info(param.wire, Origin.REFERENCE, text, "Name the model itself to be sure which one it is.")


def _template(services: Services, project_id: str, model: Model | None, data: Data) -> Iterator[Finding]:
    """Whether a named template fits the model that the adapter, if it is one, belongs to."""
    base = model
    while base is not None and base.kind == "adapter":
        base = record_of(services, project_id, base.base_model)
    own = Own(name="")
    if base is not None and data.template is not None:
        own = _own(services, project_id, base, data.template)
    yield from wording.remarks(data, own)


def _own(services: Services, project_id: str, model: Model, template: str) -> Own:
    """What the catalog's files tell of the model's own way to talk; the Hub is not asked."""
    known: dict[str, Any] = {"name": model.name, "model_type": model.config.get("model_type")}
    if catalog.is_on_hub(model.uri):
        return Own(**known)
    wanted = wording.wanted_tokens(template, model.name, known["model_type"])
    with TemporaryDirectory(prefix="template-") as work:
        folder = modelfiles.fetch(services, project_id, model.name, vocabulary.SPOKEN, Path(work))
        jinja, values = vocabulary.spoken(folder)
    return Own(**known, jinja=jinja, values=values, tokens=_tokens(services, model, wanted))


def _tokens(services: Services, model: Model, wanted: Collection[str]) -> frozenset[str] | None:
    """Those of the wanted that tokenizer.json has."""
    try:
        with services.artifacts.open(f"{model.uri}/{vocabulary.TOKENIZER}") as file:
            text = file.read(MAX_TOKENIZER_BYTES)
    except NotFound:
        return None
    # As JSON has it, with and without escaped < and >.
    known = text.replace(rb"\u003c", b"<").replace(rb"\u003e", b">")
    written = {token: (f'"{token}"'.encode(), json.dumps(token).encode()) for token in wanted}
    return frozenset(token for token, forms in written.items() if any(form in known for form in forms))
