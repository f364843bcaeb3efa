"""Datasets: an upload is checked row by row, then kept as an artifact. Broken rows are refused with their lines.

The same file again (same digest, same reading) is the record that is there already: clients may retry uploads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from flask import Response, jsonify, request
from flask_smorest import Blueprint

from gateway import body, generation, openapi
from gateway.admission import user_of
from gateway.auth import project_id
from gateway.jobs import list_json
from gateway.services import services
from shared import bulk, dataset, datasetinfo, inspection, strict_json
from shared.dataset import Report
from shared.datasetinfo import Description, Entry
from shared.errors import Complaint, Conflict, InvalidRequest, InvalidSpec
from shared.ids import new_id
from shared.layout import Layout
from shared.nearest import did_you_mean
from shared.records import Dataset
from shared.tongues import Text

blueprint = Blueprint("datasets", __name__, url_prefix="/v1/datasets", description="Training data")

#: What a file is uploaded for; training data is checked as such, and what is to be asked row by row.
PURPOSES = ("fine-tune", "batch", "generate", "evals", "user_data")
TRAINING = frozenset({"fine-tune", "evals"})
#: Of these, whether each row must have a `custom_id`.
ASKED = {"batch": True, "generate": False}
MAX_NAME_CHARS = 200
#: In no name: a comma divides LF's lists of datasets, a slash the parts of a URL.
RESERVED = ",/\\"
#: Fields of an upload that say how it is read, as an entry of `dataset_info.json` would.
DESCRIBED = ("formatting", "columns", "tags", "ranking", "num_samples", "subset", "split")
FIELDS = ("file", "name", "purpose", *DESCRIBED, "dataset_info")


@blueprint.route("", methods=["POST"])
@blueprint.doc(requestBody=openapi.UPLOAD_BODY, responses=openapi.created("Dataset"))
def create() -> Response:
    """Upload a dataset (multipart): JSONL, JSON, CSV, Parquet, Arrow or text; alpaca, sharegpt or openai rows

    `formatting`, `columns`, `tags`, `ranking` and `num_samples` are LF's, the columns and tags as JSON; left out: found
    out. Or `dataset_info`: an entry of LF's `dataset_info.json`, or the whole file, of which the entry is taken that
    has the upload's name. The `kind` of the rows says which stages they suit.
    """
    record, created = receive(request.form.get("purpose", "fine-tune"), FIELDS)
    answer = jsonify(dataset_json(record))
    answer.status_code = 201 if created else 200
    return answer


@blueprint.route("", methods=["GET"])
@blueprint.doc(parameters=openapi.PAGE, responses=openapi.ok("DatasetList"))
def list_datasets() -> Response:
    """List datasets, newest first"""
    page = services().store.datasets.list(
        project_id(),
        after=request.args.get("after"),
        limit=body.whole_number("limit", 20, minimum=1, maximum=100),
        order=str(body.one_of("order", ("asc", "desc"), "desc")),
    )
    return jsonify(list_json([dataset_json(record) for record in page.items], page.has_more))


@blueprint.route("/<name>", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Dataset"))
def retrieve(name: str) -> Response:
    """Look at a dataset, by id or name"""
    return jsonify(dataset_json(services().store.datasets.get(project_id(), name)))


@blueprint.route("/<name>", methods=["DELETE"])
@blueprint.doc(responses=openapi.ok("Deleted"))
def delete(name: str) -> Response:
    """Delete a dataset that no waiting or running job uses"""
    record = remove(name)
    return jsonify({"id": record.id, "object": "dataset", "deleted": True})


def receive(purpose: str, fields: Collection[str]) -> tuple[Dataset, bool]:
    """The uploaded file of this request as a record, and whether it is new. Raises InvalidDataset, InvalidSpec."""
    body.multipart()
    _check_fields(fields)
    upload = request.files.get("file")
    if upload is None or not upload.filename:
        raise _refused("file", "is missing: send it as the multipart field `file`")
    if purpose not in PURPOSES:
        allowed = ", ".join(PURPOSES)
        raise _refused("purpose", Text("is {value!r}: must be one of {allowed}", value=purpose[:40], allowed=allowed))
    filename = _printable(Path(upload.filename.replace("\\", "/")).name[:MAX_NAME_CHARS]) or "dataset"
    upload.stream.flush()
    return _keep(Path(str(upload.stream.name)), filename, purpose)


def remove(name: str) -> Dataset:
    """Raises Conflict while a job needs it."""
    record = services().store.datasets.get(project_id(), name)
    # A name means the newest dataset that has it.
    newest = services().store.datasets.get(project_id(), record.name).id == record.id
    if user := user_of(services(), project_id(), "dataset", {record.id, *([record.name] if newest else [])}):
        raise Conflict(
            "Dataset {name!r} is used by job {user}: cancel it first or wait for its end", name=record.name, user=user
        )
    services().store.datasets.delete(project_id(), record.id)
    services().artifacts.delete(record.uri)
    services().artifacts.delete(services().artifacts.uri("datasets", record.id))
    return record


def _keep(path: Path, filename: str, purpose: str) -> tuple[Dataset, bool]:
    entry = _entry(filename)
    told = _check(path, filename, purpose, entry.description)
    given = _name(filename, entry)
    key, artifacts = new_id("file-"), services().artifacts
    record = None
    try:
        # The upload is ours to give away: no second copy of it.
        sealed = artifacts.put_file(path, artifacts.uri("datasets", key, "data"), adopt=True)
        new = {**told, "name": given, "filename": filename, "purpose": purpose, "digest": sealed.digest}
        with services().locks.holding("dataset", project_id(), sealed.digest):
            record = _twin(new) or services().store.datasets.create(
                project_id(), **new, size_bytes=sealed.size_bytes, uri=sealed.uri, id=key
            )
    finally:
        if record is None or record.id != key:
            artifacts.delete(artifacts.uri("datasets", key))
    return record, record.id == key


def _name(filename: str, entry: Entry) -> str:
    """As the client says, else as its description has it, else what the file is called."""
    given = request.form.get("name")
    if given is None:
        made = "".join("_" if char in RESERVED else char for char in _printable(entry.name)[:MAX_NAME_CHARS]).strip()
        return made if made.strip(".") else "dataset"
    wrong = not given.isprintable() or not 0 < len(given) <= MAX_NAME_CHARS or given != given.strip()
    if wrong or not given.strip(".") or any(char in RESERVED for char in given):
        text = "is {value!r}: must be 1 to {most} printable characters without commas, slashes and spaces around them"
        raise _refused("name", Text(text, value=given[:40], most=MAX_NAME_CHARS))
    return given


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "_" for char in text)


def _entry(filename: str) -> Entry:
    """How the upload is described: by an entry of a `dataset_info.json`, or by fields of the form."""
    if text := _description():
        if twice := [name for name in DESCRIBED if name in request.form]:
            raise _refused(twice[0], "is given beside dataset_info, which says it too: give one of them")
        return datasetinfo.chosen(strict_json.loads(text, what="dataset_info"), request.form.get("name"), filename)
    given = {name: request.form[name] for name in ("formatting", "subset", "split") if request.form.get(name)}
    read = {name: _json(name) for name in ("columns", "tags", "ranking", "num_samples")}
    description = datasetinfo.described_by_fields({**given, **read})
    return Entry(name=Path(filename).stem, description=description)


def _description() -> str | None:
    """The `dataset_info` of the upload, sent as a field or as a file of its own."""
    part = request.files.get("dataset_info")
    if part is None:
        return request.form.get("dataset_info")
    try:
        return part.stream.read(datasetinfo.MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused("dataset_info", "is not UTF-8: save the file as UTF-8", "encoding") from error


def _check(path: Path, filename: str, purpose: str, description: Description) -> dict[str, Any]:
    """Format, columns and number of rows of the file."""
    if purpose in TRAINING:
        report = _inspected(path, filename, description)
        return {"format": report.layout.format, "columns": report.as_record(), "num_rows": report.num_rows}
    if purpose in ASKED:
        found = bulk.survey(path, needs_id=ASKED[purpose], check=generation.complaints)
        return {"format": purpose, "columns": found.as_record(), "num_rows": found.num_rows}
    return {"format": None, "columns": {}, "num_rows": 0}


def _inspected(path: Path, filename: str, description: Description) -> Report:
    if inspection.is_small(path, filename):
        return dataset.inspect(path, description, filename=filename)
    with services().inspections:
        return inspection.inspect(path, description, filename=filename)


def _twin(new: dict[str, Any]) -> Dataset | None:
    same = ("digest", "name", "purpose", "format", "columns")
    page = services().store.datasets.list(project_id(), purpose=new["purpose"])
    return next((old for old in page.items if all(getattr(old, name) == new[name] for name in same)), None)


def _check_fields(known: Collection[str]) -> None:
    """A field of the form that is misspelt must not pass for one that was left out."""
    counts = Counter(name for part in (request.form, request.files) for name, _ in part.items(multi=True))
    for name, count in counts.items():
        if name is None:
            raise _refused("file", "comes in a part without a name: send it as the multipart field `file`")
        if name not in known:
            raise _refused(name[:100], Text("is unknown{near}", near=did_you_mean(name, known)), "unknown_field")
        if name in request.files and name not in ("file", "dataset_info"):
            raise _refused(name, "is sent as a file: send it as a text field")
        if count > 1:
            raise _refused(name, Text("is given {count} times: once is meant", count=count))


def _json(name: str) -> Any:
    """The value of a form field that is JSON; None where it is left out."""
    text = request.form.get(name)
    return strict_json.loads(text, what=name) if text else None


def _refused(field: str, message: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidSpec(f"{field} {message}", complaints=[Complaint(field=field, message=message, code=code)])


def kind_of(record: Dataset) -> str | None:
    """What its rows are: "messages", "pair", "labelled" or "text"; None for files that are no training data."""
    is_training = record.format is not None and record.purpose in TRAINING
    return Layout.from_record(str(record.format), record.columns).kind if is_training else None


def dataset_json(record: Dataset) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "dataset",
        "name": record.name,
        "filename": record.filename,
        "purpose": record.purpose,
        "format": record.format,
        "kind": kind_of(record),
        "columns": record.columns,
        "num_rows": record.num_rows,
        "size_bytes": record.size_bytes,
        "digest": record.digest,
        "status": record.status,
        "created_at": record.created_at.isoformat(),
    }
