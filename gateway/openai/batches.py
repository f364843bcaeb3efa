"""OpenAI batches: generation jobs of the ledger under OpenAI's names. Rows were checked when their file was uploaded.

A batch differs from a job that was posted to /v1/jobs in one thing: its rows say all of what they want, and what they
leave out is decided by who answers, as for a request of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flask import Response, jsonify, request
from flask_smorest import Blueprint

from gateway import askable, openapi, queueing
from gateway import body as bodies
from gateway.auth import current_key, project_id
from gateway.door import create_job
from gateway.jobs import cancelled, error_json, find_jobs, list_json
from gateway.services import services
from shared import catalog, schema
from shared.bulk import ENDPOINTS
from shared.errors import Complaint, NotFound
from shared.fields import shown
from shared.job import TERMINAL, Job, Kind, Status, Wanted
from shared.records import Dataset
from shared.spec.generate import seconds_of, window_complaint
from shared.tongues import Text

blueprint = Blueprint("batches", __name__, url_prefix="/v1/batches", description="OpenAI: batches")

FIELDS = frozenset({"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after", "priority"})
#: Member of the job's request: what is told of a batch and is no parameter.
SENT = "batch"


@blueprint.route("", methods=["POST"])
@blueprint.doc(requestBody=openapi.body_of("NewBatch"), responses=openapi.ok("Batch"))
def create() -> Response:
    """Queue the requests of a file

    The file is one of purpose `batch`: every line has `custom_id`, `method`, `url` and `body`. Rows may name several
    models, also such as are not deployed yet: these are waited for.
    """
    given = bodies.json_object()
    if complaints := list(_wrong(given)):
        raise schema.refusal(complaints)
    record = services().store.datasets.get(project_id(), given["input_file_id"])
    if complaints := list(_unfit(record, given["endpoint"])):
        raise schema.refusal(complaints)
    own = {name: given[name] for name in ("completion_window", "metadata", "priority") if given.get(name) is not None}
    sent = {
        "endpoint": given["endpoint"],
        "input_file_id": record.id,
        "num_rows": record.num_rows,
        "models": list(record.columns["models"]),
    }
    body = {"kind": Kind.GENERATE.value, "dataset": record.id, **own}
    key = request.headers.get("Idempotency-Key")
    job, _ = create_job(services(), current_key(), body, idempotency_key=key, sent={SENT: sent})
    return jsonify(batch_json(job))


@blueprint.route("", methods=["GET"])
@blueprint.doc(parameters=openapi.PAGE, responses=openapi.ok("BatchList"))
def list_batches() -> Response:
    """List batches, newest first"""
    page = find_jobs(kind=Kind.GENERATE)
    return jsonify(list_json([batch_json(job) for job in page.items], page.has_more))


@blueprint.route("/<batch_id>", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Batch"))
def retrieve(batch_id: str) -> Response:
    """Look at a batch"""
    return jsonify(batch_json(_get(batch_id)))


@blueprint.route("/<batch_id>/cancel", methods=["POST"])
@blueprint.doc(responses=openapi.ok("Batch"))
def cancel(batch_id: str) -> Response:
    """Cancel a batch; what is answered by then is kept"""
    return jsonify(batch_json(cancelled(_get(batch_id).id)))


def _get(batch_id: str) -> Job:
    job = services().store.jobs.get(project_id(), batch_id)
    if job.kind != Kind.GENERATE:
        text = "Job {job_id!r} is no batch but of kind {kind}: see /v1/jobs/{job_id}"
        raise NotFound(text, job_id=batch_id, kind=job.kind)
    return job


def _wrong(given: Mapping[str, Any]) -> Iterator[Complaint]:
    """What the body itself tells."""
    for name in given:
        if name not in FIELDS:
            yield Complaint(field=name, message="is unknown", code="unknown_field")
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(given.get(name), str) or not given[name]:
            yield Complaint(field=name, message="is required: a text", code="required")
    if given.get("output_expires_after") is not None:
        text = "cannot be held to: files are kept until they are deleted (DELETE /v1/files/{file_id}); leave it out"
        yield Complaint(field="output_expires_after", message=text, code="not_allowed")
    endpoint, window = given.get("endpoint"), given.get("completion_window")
    if isinstance(endpoint, str) and endpoint and endpoint not in ENDPOINTS:
        text = Text("is {url}: must be one of {allowed}", url=shown(endpoint), allowed=", ".join(ENDPOINTS))
        yield Complaint(field="endpoint", message=text)
    if isinstance(window, str) and window and (message := window_complaint(window)) is not None:
        yield Complaint(field="completion_window", message=message)


def _unfit(record: Dataset, endpoint: str) -> Iterator[Complaint]:
    """Why the file's rows cannot be asked at this endpoint."""
    field = "input_file_id"
    if record.purpose != "batch":
        text = "was uploaded with purpose {purpose!r}: upload it with purpose batch"
        yield Complaint(field=field, message=Text(text, purpose=record.purpose))
        return
    urls, models = record.columns["urls"], record.columns["models"]
    if count := urls.get(""):
        yield Complaint(field=field, message=Text("has {count} line(s) without url and body", count=count))
    for url, count in urls.items():
        if url not in ("", endpoint):
            text = Text("has {count} line(s) for {url}: all must be for {endpoint}", count=count, url=url,
                        endpoint=endpoint)  # fmt: skip
            yield Complaint(field=field, message=text)
    yield from askable.unknown(services(), project_id(), models, field)
    yield from askable.without_preset(services(), project_id(), record.columns["presets"], field)
    yield from askable.unheeded(services(), project_id(), record.columns.get("beams") or {}, field)


def batch_json(job: Job) -> dict[str, Any]:
    sent = job.request.get(SENT) or {}
    window, models = job.spec.get("completion_window"), sent.get("models") or [job.spec.get("model")]
    pins = catalog.pins(job.request)
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": sent.get("endpoint", ""),
        "model": models[0] if len(models) == 1 else None,
        "errors": _errors(job),
        "input_file_id": sent.get("input_file_id") or pins.get(job.spec["dataset"], {}).get("id", job.spec["dataset"]),
        "completion_window": window or "",
        "status": status(job),
        "output_file_id": job.result.get("output_file"),
        "error_file_id": job.result.get("error_file"),
        "created_at": int(job.created_at.timestamp()),
        "expires_at": int(job.created_at.timestamp()) + seconds_of(window) if window else None,
        **_moments(job),
        "request_counts": _counts(job, sent),
        "usage": _usage(job),
        "metadata": job.metadata or None,
        "x_status": job.status,
        "x_progress": job.progress,
        "x_attempt": job.attempt,
        "x_queue": queueing.told(services(), job),
    }


def status(job: Job) -> str:
    """In OpenAI's words: clients wait as long as they read one of those that pass."""
    if job.wanted == Wanted.CANCEL and job.status not in TERMINAL:
        return "cancelling"
    if job.status == Status.FAILED:
        # Every row has its answer or its error: only that none has an answer.
        return "completed" if _is_through(job) else "failed"
    if job.status == Status.SUCCEEDED:
        return "expired" if job.result.get("num_expired") else "completed"
    if job.status == Status.CANCELLED:
        return "cancelled"
    if job.status == Status.RUNNING and job.progress.get("done") and job.progress["done"] == job.progress.get("total"):
        return "finalizing"
    return "in_progress" if job.attempt else "validating"


def _is_through(job: Job) -> bool:
    num_rows = job.result.get("num_rows")
    return bool(num_rows) and job.result.get("num_failed") == num_rows == job.progress.get("total")


def _moments(job: Job) -> dict[str, int | None]:
    """When it came to be what it is; of what it never was, None."""
    started = int(job.started_at.timestamp()) if job.started_at else None
    ended, word = int(job.finished_at.timestamp()) if job.finished_at else None, status(job)
    told = {f"{name}_at": ended if word == name else None for name in ("completed", "failed", "expired", "cancelled")}
    return {"in_progress_at": started, "finalizing_at": ended if job.result else None, "cancelling_at": None, **told}


def _counts(job: Job, sent: Mapping[str, Any]) -> dict[str, int]:
    """Of the result, once there is one, else as the job last told."""
    failed = job.result.get("num_failed", job.progress.get("num_failed", 0))
    done = job.result.get("num_rows", job.progress.get("done", 0))
    total = max(done, job.progress.get("total") or sent.get("num_rows") or 0)
    return {"total": total, "completed": done - failed, "failed": failed}


def _usage(job: Job) -> dict[str, Any] | None:
    if "completion_tokens" not in job.result:
        return None
    asked, answered = job.result["prompt_tokens"], job.result["completion_tokens"]
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": answered,
        "output_tokens_details": {"reasoning_tokens": job.result.get("reasoning_tokens", 0)},
        "total_tokens": asked + answered,
    }


def _errors(job: Job) -> dict[str, Any] | None:
    if status(job) != "failed" or job.error is None:
        return None
    error = {"code": job.error["code"], "message": job.error["message"], "param": job.error.get("field"), "line": None}
    chinese = (error_json(job.error) or {}).get("message_zh")
    return {"object": "list", "data": [{**error, **({"message_zh": chinese} if chinese else {})}]}
