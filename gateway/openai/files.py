"""OpenAI files: datasets and results of jobs by another name. Uploads pass the same checks as /v1/datasets."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request
from flask_smorest import Blueprint

from gateway import body, datasets, openapi, sending
from gateway.auth import project_id
from gateway.jobs import list_json
from gateway.services import services
from shared.records import Dataset

blueprint = Blueprint("files", __name__, url_prefix="/v1/files", description="OpenAI: files")

#: As OpenAI documents it.
DEFAULT_LIMIT = 10_000
#: Files are kept until they are deleted: an expiry is taken and told as none.
FIELDS = (*datasets.FIELDS, "expires_after[anchor]", "expires_after[seconds]")


@blueprint.route("", methods=["POST"])
@blueprint.doc(requestBody=openapi.UPLOAD_BODY, responses=openapi.ok("File"))
def create() -> Response:
    """Upload a file"""
    record, _ = datasets.receive(request.form.get("purpose", ""), FIELDS)
    return jsonify(file_json(record))


@blueprint.route("", methods=["GET"])
@blueprint.doc(parameters=openapi.PAGE, responses=openapi.ok("FileList"))
def list_files() -> Response:
    """List files, newest first"""
    page = services().store.datasets.list(
        project_id(),
        purpose=request.args.get("purpose"),
        after=request.args.get("after"),
        limit=body.whole_number("limit", DEFAULT_LIMIT, minimum=1, maximum=DEFAULT_LIMIT),
        order=str(body.one_of("order", ("asc", "desc"), "desc")),
    )
    return jsonify(list_json([file_json(record) for record in page.items], page.has_more))


@blueprint.route("/<file_id>", methods=["GET"])
@blueprint.doc(responses=openapi.ok("File"))
def retrieve(file_id: str) -> Response:
    """Look at a file"""
    return jsonify(file_json(services().store.datasets.get(project_id(), file_id)))


@blueprint.route("/<file_id>/content", methods=["GET"])
@blueprint.doc(responses=openapi.plain("The file.", "application/octet-stream"))
def content(file_id: str) -> Response:
    """Download a file"""
    record = services().store.datasets.get(project_id(), file_id)
    opened = services().artifacts.open(record.uri)
    tag = record.digest.partition(":")[2]
    return sending.send(opened, size_bytes=record.size_bytes, tag=tag, filename=record.filename)


@blueprint.route("/<file_id>", methods=["DELETE"])
@blueprint.doc(responses=openapi.ok("Deleted"))
def delete(file_id: str) -> Response:
    """Delete a file that no waiting or running job uses"""
    record = datasets.remove(file_id)
    return jsonify({"id": record.id, "object": "file", "deleted": True})


def file_json(record: Dataset) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.size_bytes,
        "created_at": int(record.created_at.timestamp()),
        "filename": record.filename,
        "purpose": record.purpose,
        "status": record.status,
        "status_details": None,
        "expires_at": None,
        "x_validation": {"rows": record.num_rows, "format": record.format},
    }
