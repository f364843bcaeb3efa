"""OpenAI fine-tuning jobs: training jobs of the ledger under OpenAI's names. A cancel's body is empty."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request
from flask_smorest import Blueprint

from gateway import body, openapi, queueing
from gateway.auth import current_key, project_id
from gateway.door import create_job
from gateway.jobs import find_jobs, list_json
from gateway.openai import integrations
from gateway.openai.hyperparameters import hyperparameters, job_body, method
from gateway.services import services
from shared.errors import NotFound
from shared.job import Event, Job, Kind, Status
from shared.records import Checkpoint
from shared.store.paging import InvalidCursor

blueprint = Blueprint("fine_tuning", __name__, url_prefix="/v1/fine_tuning/jobs", description="OpenAI: fine-tuning")

EVENT_PREFIX = "ftevent-"


@blueprint.route("", methods=["POST"])
@blueprint.doc(requestBody=openapi.body_of("NewFineTuningJob"), responses=openapi.ok("FineTuningJob"))
def create() -> Response:
    """Create a fine-tuning job"""
    given = body.json_object()
    sent = {name: given.get(name) for name in ("training_file", "validation_file")}
    key = request.headers.get("Idempotency-Key")
    job, _ = create_job(services(), current_key(), job_body(given), idempotency_key=key, sent=sent)
    return jsonify(job_json(job))


@blueprint.route("", methods=["GET"])
@blueprint.doc(parameters=openapi.PAGE, responses=openapi.ok("FineTuningJobList"))
def list_jobs() -> Response:
    """List fine-tuning jobs, newest first"""
    page = find_jobs(kind=Kind.TRAIN)
    return jsonify(list_json([job_json(job) for job in page.items], page.has_more))


@blueprint.route("/<job_id>", methods=["GET"])
@blueprint.doc(responses=openapi.ok("FineTuningJob"))
def retrieve(job_id: str) -> Response:
    """Look at a fine-tuning job"""
    return jsonify(job_json(_get(job_id)))


@blueprint.route("/<job_id>/cancel", methods=["POST"])
@blueprint.doc(responses=openapi.ok("FineTuningJob"))
def cancel(job_id: str) -> Response:
    """Cancel a fine-tuning job"""
    return jsonify(job_json(services().store.jobs.cancel(project_id(), _get(job_id).id)))


@blueprint.route("/<job_id>/pause", methods=["POST"])
@blueprint.doc(responses=openapi.ok("FineTuningJob"))
def pause(job_id: str) -> Response:
    """Pause a fine-tuning job"""
    return jsonify(job_json(services().store.jobs.pause(project_id(), _get(job_id).id)))


@blueprint.route("/<job_id>/resume", methods=["POST"])
@blueprint.doc(responses=openapi.ok("FineTuningJob"))
def resume(job_id: str) -> Response:
    """Resume a paused fine-tuning job"""
    job = services().store.jobs.resume(project_id(), _get(job_id).id)
    services().queue.send(job.id, job.kind.value)
    return jsonify(job_json(job))


@blueprint.route("/<job_id>/events", methods=["GET"])
@blueprint.doc(parameters=openapi.PAGE[:2], responses=openapi.ok("FineTuningEventList"))
def events(job_id: str) -> Response:
    """Events of a fine-tuning job, newest first"""
    job = _get(job_id)
    limit = body.whole_number("limit", 20, minimum=1, maximum=1000)
    before = _number(job, request.args.get("after"))
    # The first event has number 1: before it there is nothing.
    found = [] if before == 1 else _events(job, before, limit + 1)
    return jsonify(list_json([event_json(event) for event in found[:limit]], len(found) > limit))


@blueprint.route("/<job_id>/checkpoints", methods=["GET"])
@blueprint.doc(parameters=openapi.PAGE[:2], responses=openapi.ok("FineTuningCheckpointList"))
def checkpoints(job_id: str) -> Response:
    """Checkpoints of a fine-tuning job, newest first"""
    job = _get(job_id)
    limit = body.whole_number("limit", 10, minimum=1, maximum=100)
    found = list(reversed(services().store.checkpoints.list(project_id(), job.id)))
    if after := request.args.get("after"):
        ids = [checkpoint.id for checkpoint in found]
        if after not in ids:
            raise InvalidCursor(f"after is {after[:60]!r}: there is no such checkpoint", field="after")
        found = found[ids.index(after) + 1 :]
    data = [checkpoint_json(job, checkpoint) for checkpoint in found[:limit]]
    return jsonify(list_json(data, len(found) > limit))


def _get(job_id: str) -> Job:
    job = services().store.jobs.get(project_id(), job_id)
    if job.kind != Kind.TRAIN:
        raise NotFound(
            "Job {job_id!r} is no fine-tuning job but of kind {kind}: see /v1/jobs/{job_id}",
            job_id=job_id,
            kind=job.kind,
        )
    return job


def _events(job: Job, before: int, limit: int) -> list[Event]:
    return services().store.events.list(project_id(), job.id, after=before, limit=limit, newest_first=True)


def _number(job: Job, event_id: str | None) -> int:
    """The number in an event's id; 0 where none was given."""
    if event_id is None:
        return 0
    prefix, _, number = event_id.rpartition("-")
    is_number = number.isascii() and number.isdigit() and len(number) < 20
    if prefix != _event_id(job.id) or not is_number or not 0 < int(number) <= job.last_event:
        raise InvalidCursor(f"after is {event_id[:60]!r}: there is no such event in this list", field="after")
    return int(number)


def _event_id(job_id: str) -> str:
    return EVENT_PREFIX + job_id.removeprefix("ftjob-")


def job_json(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": int(job.created_at.timestamp()),
        "finished_at": int(job.finished_at.timestamp()) if job.finished_at else None,
        "model": job.spec["model_name_or_path"],
        "fine_tuned_model": job.result.get("model"),
        "organization_id": job.project_id,
        "status": job.status,
        "training_file": job.request.get("training_file") or (job.spec.get("dataset") or [""])[0],
        "validation_file": job.request.get("validation_file"),
        "result_files": [],
        "seed": job.spec["seed"],
        "hyperparameters": hyperparameters(job),
        "method": method(job),
        "trained_tokens": job.result.get("num_tokens"),
        "error": _error(job),
        "estimated_finish": None,
        "integrations": integrations.told(job),
        "metadata": job.metadata,
        "x_phase": job.phase,
        "x_progress": job.progress,
        "x_attempt": job.attempt,
        "x_priority": job.priority,
        "x_queue": queueing.told(services(), job),
    }


def _error(job: Job) -> dict[str, Any] | None:
    if job.status != Status.FAILED or job.error is None:
        return None
    return {"code": job.error["code"], "message": job.error["message"], "param": job.error.get("field")}


def event_json(event: Event) -> dict[str, Any]:
    level = {"warning": "warn"}.get(event.level, event.level)
    data = dict(event.data)
    if "loss" in data:
        data["train_loss"] = data["loss"]
    return {
        "id": f"{_event_id(event.job_id)}-{event.number}",
        "object": "fine_tuning.job.event",
        "created_at": int(event.created_at.timestamp()),
        "level": level,
        "message": event.message,
        "type": "metrics" if event.type == "metrics" else "message",
        "data": data,
    }


def checkpoint_json(job: Job, checkpoint: Checkpoint) -> dict[str, Any]:
    metrics = checkpoint.metrics
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(checkpoint.created_at.timestamp()),
        "fine_tuning_job_id": job.id,
        "fine_tuned_model_checkpoint": checkpoint.name or f"{job.id}:ckpt-step-{checkpoint.step}",
        "step_number": checkpoint.step,
        "metrics": {
            "step": checkpoint.step,
            "train_loss": metrics.get("loss"),
            "valid_loss": metrics.get("eval_loss"),
            "valid_mean_token_accuracy": metrics.get("eval_accuracy"),
        },
    }
