"""What a training would read of a dataset: exact text, ids, learned tokens, and the lengths that `cutoff_len` is for.

The body is a training's: an LF YAML posts as it is, and its template, cutoff_len, train_on_prompt ... count. The work
is done by shared/preview.py in a process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flask import Response, jsonify
from flask_smorest import Blueprint

from gateway import body, modelfiles, openapi
from gateway.auth import project_id
from gateway.services import Services, services
from shared import preview, request, schema, stages, vocabulary
from shared.advice import reading
from shared.errors import Complaint, InvalidSpec, NotFound, Unavailable
from shared.layout import Layout, wrong_kind
from shared.records import Dataset
from shared.spec import TrainSpec
from shared.tongues import Text

blueprint = Blueprint("previews", __name__, url_prefix="/v1/datasets", description="Training data")

#: Rows shown at once, and where nothing is asked for.
MAX_ROWS, DEFAULT_ROWS = 20, 3
#: Stage that is meant where the body names none, by the kind of rows.
STAGES = {"messages": "sft", "pair": "dpo", "labelled": "kto", "text": "pt"}
#: How several datasets are mixed: nothing to one alone.
OF_SEVERAL = frozenset({"mix_strategy", "interleave_probs", "eval_dataset", "eval_on_each_dataset"})
#: How long a request waits for others' previews.
WAIT_SECONDS = 10.0


@blueprint.route("/<name>/preview", methods=["POST"])
@blueprint.doc(requestBody=openapi.SPEC_BODY, responses=openapi.ok("Preview"))
def create(name: str) -> Response:
    """See what a training would read of a dataset: text, ids, learned tokens, lengths

    The body has a training's fields (`model`, `template`, `cutoff_len` ...), in JSON or YAML, and `rows`: which rows to
    show, counted from 0. Nothing is queued.
    """
    record = services().store.datasets.get(project_id(), name)
    given = body.spec_object()
    rows = given.pop("rows", None)
    spec = _spec(record, given)
    answer = measured(services(), project_id(), record, spec, _rows(rows, record))
    findings = [finding.as_dict() for finding in reading.remarks(spec, answer["lengths"])]
    told = {"object": "dataset.preview", "dataset": record.id, "model": spec.model.model_name_or_path}
    return jsonify({**told, "template": spec.data.template, **answer, "findings": findings})


def _spec(record: Dataset, given: Mapping[str, Any]) -> TrainSpec:
    """The spec of a training on this dataset alone, of a stage that its rows are for. Raises InvalidSpec."""
    if record.format is None or record.format == "batch":
        text = "was uploaded with purpose {purpose}: only training data can be previewed"
        raise _refused("dataset", Text(text, purpose=record.purpose))
    _, rest = request.split_envelope({**given, "kind": "train"})
    kind = Layout.from_record(record.format, record.columns).kind
    stage = STAGES[kind]
    alone = {name: value for name, value in rest.items() if name not in OF_SEVERAL}
    spec = schema.load(TrainSpec, {"stage": stage, **alone, "dataset": [record.id]})
    if wrong := wrong_kind(kind, spec.tuning.stage, stages.get(spec.tuning.stage).rows):
        raise _refused("dataset", wrong, "wrong_kind")
    return spec


def _rows(given: Any, record: Dataset) -> list[int]:
    if given is None:
        return list(range(min(DEFAULT_ROWS, record.num_rows)))
    whole = isinstance(given, list) and all(type(row) is int and 0 <= row < record.num_rows for row in given)
    if not whole or not 0 < len(given) <= MAX_ROWS:
        text = "is {value}: must be a list of 1 to {most} row numbers from 0 to {last}"
        raise _refused("rows", Text(text, value=str(given)[:60], most=MAX_ROWS, last=record.num_rows - 1))
    return sorted(set(given))


def measured(services: Services, project_id: str, record: Dataset, spec: TrainSpec, rows: list[int]) -> dict[str, Any]:
    if not services.previews.acquire(timeout=WAIT_SECONDS):
        raise Unavailable("other previews are being made: ask again in a moment")
    try:
        with TemporaryDirectory(prefix="preview-") as work:
            try:
                folder = modelfiles.fetch(
                    services, project_id, spec.model.model_name_or_path, vocabulary.FILES, Path(work)
                )
            except NotFound as error:
                raise _refused("model_name_or_path", error.message, "model_not_found") from error
            return preview.ask(
                {
                    "spec": schema.to_wire(spec),
                    "model_folder": str(folder),
                    "path": str(services.artifacts.local_path(record.uri)),
                    "format": record.format,
                    "columns": record.columns,
                    "num_rows": record.num_rows,
                    "rows": rows,
                }
            )
    finally:
        services.previews.release()


def _refused(field: str, message: str, code: str = "invalid_value") -> InvalidSpec:
    return InvalidSpec(f"{field} {message}", complaints=[Complaint(field=field, message=message, code=code)])
