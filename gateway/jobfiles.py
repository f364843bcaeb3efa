"""Files that a job has left: the model's, its curves and logs, and what trackers keep. Each as it was sealed."""

from __future__ import annotations

from flask import Response, jsonify, request
from flask_smorest import Blueprint

from gateway import openapi, sending
from gateway.auth import project_id
from gateway.jobs import list_json
from gateway.services import services
from shared import catalog
from shared.artifact import Sealed
from shared.errors import NotFound
from shared.job import Job

blueprint = Blueprint("jobfiles", __name__, url_prefix="/v1/jobs", description="Files that a job has left")


@blueprint.route("/<job_id>/files", methods=["GET"])
@blueprint.doc(parameters=openapi.FILE_PATH, responses=openapi.ok("JobFileList"))
def files(job_id: str) -> Response:
    """List the files of the model that a job has made; with `path` download one

    training_loss.png and .svg, trainer_log.jsonl, what trackers keep below tracking/, and the weights.
    """
    sealed = _sealed(services().store.jobs.get(project_id(), job_id))
    if (path := request.args.get("path")) is not None:
        return _content(sealed, job_id, path)
    data = [{"id": file.path, "object": "job.file", **vars(file)} for file in sealed.files] if sealed else []
    return jsonify(list_json(data, False))


def _sealed(job: Job) -> Sealed | None:
    """None where the job has made no model, or its model is deleted."""
    try:
        model = services().store.models.get(project_id(), str(job.result.get("model")))
    except NotFound:
        return None
    if model.job_id != job.id or catalog.is_on_hub(model.uri):
        return None
    return services().artifacts.sealed(model.uri)


def _content(sealed: Sealed | None, job_id: str, path: str) -> Response:
    file = next((file for file in sealed.files if file.path == path), None) if sealed else None
    if sealed is None or file is None:
        raise NotFound("Job {job_id} has left no file {path!r}", field="path", job_id=job_id, path=path[:200])
    opened = services().artifacts.open(f"{sealed.uri}/{file.path}")
    return sending.send(opened, size_bytes=file.size_bytes, tag=file.sha256, sha256=file.sha256)
