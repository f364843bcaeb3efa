"""Checkpoints of a job: what each is good for, and their removal. Each is a model by its name: gateway/models.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Response, jsonify
from flask_smorest import Blueprint

from gateway import openapi
from gateway.auth import project_id
from gateway.jobs import list_json
from gateway.services import services
from shared import keeping
from shared.job import Job
from shared.records import Checkpoint

blueprint = Blueprint("checkpoints", __name__, url_prefix="/v1/jobs", description="Checkpoints of a training")


@blueprint.route("/<job_id>/checkpoints", methods=["GET"])
@blueprint.doc(responses=openapi.ok("CheckpointList"))
def list_checkpoints(job_id: str) -> Response:
    """Checkpoints of a job, oldest first

    Each has the name of a model: it is exported, deployed, asked, evaluated and trained on by that name or by its id,
    also while the job still runs. One without a name is no model: an adapter beside a base that the training changes
    (new tokens, several adapters) fits none before the end, when it is merged.
    """
    job = services().store.jobs.get(project_id(), job_id)
    found = services().store.checkpoints.list(project_id(), job_id)
    return jsonify(list_json([checkpoint_json(job, checkpoint, found) for checkpoint in found], False))


@blueprint.route("/<job_id>/checkpoints/<path:checkpoint_id>", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Checkpoint"))
def retrieve(job_id: str, checkpoint_id: str) -> Response:
    """Look at a checkpoint, by id or name"""
    job = services().store.jobs.get(project_id(), job_id)
    found = services().store.checkpoints.get(project_id(), checkpoint_id, job_id=job_id)
    return jsonify(checkpoint_json(job, found, services().store.checkpoints.list(project_id(), job_id)))


@blueprint.route("/<job_id>/checkpoints/<path:checkpoint_id>", methods=["DELETE"])
@blueprint.doc(responses=openapi.ok("Deleted"))
def delete(job_id: str, checkpoint_id: str) -> Response:
    """Delete a checkpoint and its files

    Not while a job, a deployment or a model that was made from it needs it, nor the one that its job would go on from.
    """
    gone = services().store.checkpoints.delete(project_id(), job_id, checkpoint_id)
    return jsonify({"id": gone.id, "object": "job.checkpoint", "deleted": True})


def checkpoint_json(job: Job, checkpoint: Checkpoint, siblings: Sequence[Checkpoint]) -> dict[str, Any]:
    best, model = keeping.best(siblings, job.spec), checkpoint.model
    return {
        "id": checkpoint.id,
        "object": "job.checkpoint",
        "job_id": checkpoint.job_id,
        "name": checkpoint.name,
        "step": checkpoint.step,
        "epoch": checkpoint.metrics.get("epoch"),
        "attempt": checkpoint.attempt,
        "metrics": checkpoint.metrics,
        "is_best": best is not None and best.id == checkpoint.id,
        "is_newest": checkpoint.id == siblings[-1].id,
        "is_resumable": checkpoint.is_resumable,
        "is_damaged": checkpoint.is_damaged,
        "kind": model.get("kind"),
        "base_model": model.get("base_model"),
        "size_bytes": checkpoint.total_bytes,
        "model_size_bytes": model.get("size_bytes"),
        "digest": checkpoint.digest or model.get("digest"),
        "created_at": checkpoint.created_at.isoformat(),
    }
