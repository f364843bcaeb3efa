"""Native jobs: create from JSON or YAML, look, follow, stop. The record is the ledger's; this is only its face."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request
from flask_smorest import Blueprint

from gateway import body, openapi, priorities, queueing, tailer
from gateway.auth import current_key, project_id
from gateway.door import create_job
from gateway.patience import Client
from gateway.services import services
from gateway.tailer import event_json
from shared import catalog, curves, failures
from shared.correlation import Origin
from shared.errors import InvalidRequest
from shared.job import TERMINAL, Job, Kind, Status
from shared.member import Member
from shared.records import Attempt, Page
from shared.tongues import chinese

#: Jobs read at once where only some of them are shown.
LOOK_AT = 500

blueprint = Blueprint(
    "jobs", __name__, url_prefix="/v1/jobs", description="Training, export, generation and evaluation"
)


@blueprint.route("", methods=["POST"])
@blueprint.doc(requestBody=openapi.SPEC_BODY, responses=openapi.created("Job"))
def create() -> Response:
    """Queue a job

    The fields of the spec are flat and have LLaMA Factory's names: an LF YAML posts as it is. The same body again
    within a minute, or with the same Idempotency-Key at any time, answers 200 with the job that is there
    (`Idempotent-Replayed: true`); another body with a key that was used is refused (422 idempotency_key_reused).
    """
    key = request.headers.get("Idempotency-Key")
    job, created = create_job(services(), current_key(), body.spec_object(), idempotency_key=key)
    answer = jsonify(job_json(job))
    answer.status_code = 201 if created else 200
    answer.headers["Location"] = f"/v1/jobs/{job.id}"
    answer.headers["Idempotent-Replayed"] = "false" if created else "true"
    return answer


@blueprint.route("", methods=["GET"])
@blueprint.doc(parameters=openapi.PAGE, responses=openapi.ok("JobList"))
def list_jobs() -> Response:
    """List jobs, newest first"""
    page = find_jobs(kind=body.one_of("kind", tuple(Kind)), status=body.one_of("status", tuple(Status)))
    return jsonify(list_json([job_json(job) for job in page.items], page.has_more))


def find_jobs(**filters: Any) -> Page[Job]:
    """The page that the query asks for. `metadata=null` means jobs without any, which the ledger cannot be asked."""
    limit = body.whole_number("limit", 20, minimum=1, maximum=100)
    after = request.args.get("after")
    filters |= {"order": str(body.one_of("order", ("asc", "desc"), "desc")), "metadata": body.metadata()}
    if request.args.get("metadata") != "null":
        return services().store.jobs.list(project_id(), after=after, limit=limit, **filters)
    found: list[Job] = []
    while True:
        page = services().store.jobs.list(project_id(), after=after, limit=LOOK_AT, **filters)
        found += [job for job in page.items if not job.metadata]
        if len(found) > limit or not page.has_more:
            return Page(items=found[:limit], has_more=len(found) > limit)
        after = page.items[-1].id


@blueprint.route("/<job_id>", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Job"))
def retrieve(job_id: str) -> Response:
    """Look at a job

    `nodes` are the workers of its current attempt, where several make it together.
    """
    job = services().store.jobs.get(project_id(), job_id)
    nodes = services().store.members.of(job.id, job.attempt)
    return jsonify(job_json(job) | {"nodes": [node_json(node) for node in nodes]})


@blueprint.route("/<job_id>", methods=["PATCH"])
@blueprint.doc(requestBody=openapi.body_of("JobChange"), responses=openapi.ok("Job"))
def change(job_id: str) -> Response:
    """Change the priority of a job that is queued or paused"""
    job = services().store.jobs.get(project_id(), job_id)
    priority = priorities.read(services(), current_key(), body.json_object())
    changed = services().store.jobs.set_priority(project_id(), job.id, priority)
    services().lineups.forget()
    return jsonify(job_json(changed))


@blueprint.route("/<job_id>/cancel", methods=["POST"])
@blueprint.doc(responses=openapi.ok("Job"))
def cancel(job_id: str) -> Response:
    """Cancel a job; one that runs ends within seconds"""
    return jsonify(job_json(cancelled(job_id)))


def cancelled(job_id: str) -> Job:
    job = services().store.jobs.cancel(project_id(), job_id)
    if job.status == Status.QUEUED:  # for a worker that keeps what there is of it
        services().queue.send(job.id, job.kind.value)
    return job


@blueprint.route("/<job_id>/pause", methods=["POST"])
@blueprint.doc(responses=openapi.ok("Job"))
def pause(job_id: str) -> Response:
    """Pause a job: it writes a checkpoint and gives its devices back

    It stops after the step that it is in (in stage ppo a step is a whole round of answers), after the validation or the
    checkpoint that is just being made, and while its data is prepared at once.
    """
    return jsonify(job_json(services().store.jobs.pause(project_id(), job_id)))


@blueprint.route("/<job_id>/resume", methods=["POST"])
@blueprint.doc(responses=openapi.ok("Job"))
def resume(job_id: str) -> Response:
    """Queue a paused job again; it goes on from its last checkpoint"""
    job = services().store.jobs.resume(project_id(), job_id)
    services().queue.send(job.id, job.kind.value)
    return jsonify(job_json(job))


@blueprint.route("/<job_id>/events", methods=["GET"])
@blueprint.doc(parameters=openapi.AFTER_NUMBER, responses=openapi.ok("EventList"))
def events(job_id: str) -> Response:
    """Events of a job, oldest first; as a stream when text/event-stream is accepted"""
    if "text/event-stream" in request.headers.get("Accept", ""):
        return stream(job_id)
    limit = body.whole_number("limit", 100, minimum=1, maximum=1000)
    after = body.whole_number("after", 0, maximum=2**63 - 1)
    found = services().store.events.list(project_id(), job_id, after=after, limit=limit + 1)
    data = [event_json(event) for event in found[:limit]]
    return jsonify({"object": "list", "data": data, "has_more": len(found) > limit})


@blueprint.route("/<job_id>/events/stream", methods=["GET"])
@blueprint.doc(parameters=openapi.AFTER_NUMBER, responses=openapi.EVENT_STREAM)
def events_stream(job_id: str) -> Response:
    """Follow a job: server-sent events, resumed with Last-Event-ID"""
    return stream(job_id)


def stream(job_id: str) -> Response:
    job = services().store.jobs.get(project_id(), job_id)
    # Who claims to have seen more than there is would see nothing until then.
    after = min(_last_seen(), job.last_event)
    ends_at = job.last_event if job.status in TERMINAL else None
    services().tailer.check()
    made = tailer.stream(services().tailer, job.id, after, ends_at, Client.of(request.environ).drain)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return Response(made, mimetype="text/event-stream", headers=headers)


@blueprint.route("/<job_id>/curves.svg", methods=["GET"])
@blueprint.doc(responses=openapi.plain("The curves.", "image/svg+xml"))
def curves_svg(job_id: str) -> Response:
    """Draw the loss curves of a training from what it has measured so far"""
    job = services().store.jobs.get(project_id(), job_id)
    measured = services().store.events.measured(project_id(), job_id)
    return Response(curves.svg(measured, job.name or job.id), mimetype="image/svg+xml")


@blueprint.route("/<job_id>/attempts", methods=["GET"])
@blueprint.doc(responses=openapi.ok("AttemptList"))
def attempts(job_id: str) -> Response:
    """Attempts at a job, oldest first: who tried, with what instead of the spec's values, and how it ended"""
    found = services().store.attempts.list(project_id(), job_id)
    data = [attempt_json(attempt) for attempt in found]
    return jsonify({"object": "list", "data": data, "has_more": False})


def _last_seen() -> int:
    header = request.headers.get("Last-Event-ID")
    if header is None:
        return body.whole_number("after", 0, maximum=2**63 - 1)
    if not (header.isascii() and header.isdigit() and len(header) < 20):
        raise InvalidRequest(
            "Last-Event-ID is {header!r}: must be the number of an event", field="Last-Event-ID", header=header[:40]
        )
    return int(header)


def node_json(node: Member) -> dict[str, Any]:
    return {"node_rank": node.node_rank, "worker_id": node.worker_id, "status": node.status, "error": node.error}


def job_json(job: Job) -> dict[str, Any]:
    waits, origin = queueing.told(services(), job), Origin.of(job.request)
    return {
        "id": job.id,
        "object": "job",
        "kind": job.kind,
        "name": job.name,
        "status": job.status,
        "wanted": job.wanted,
        "phase": job.phase,
        "priority": job.priority,
        "spec": job.spec,
        "metadata": job.metadata,
        "requires": job.requires,
        "datasets": dict(catalog.pins(job.request)),
        "progress": job.progress,
        "result": job.result,
        "model": job.result.get("model"),
        "error": error_json(job.error),
        "attempt": job.attempt,
        "adjustments": job.adjustments,
        "worker_id": job.worker_id,
        "queue_position": waits and waits["position"],
        "queue": waits,
        "parent_id": job.parent_id,
        "request_id": origin.request_id or None,
        "trace_id": origin.trace_id or None,
        "then": job.then,
        "last_event": job.last_event,
        "created_at": job.created_at.isoformat(),
        "started_at": job.started_at.isoformat() if job.started_at else None,
        "finished_at": job.finished_at.isoformat() if job.finished_at else None,
        "events_url": f"/v1/jobs/{job.id}/events/stream",
    }


def error_json(error: dict[str, Any] | None) -> dict[str, Any] | None:
    """With the Chinese of what its code means and of what to do."""
    known = failures.TABLE.get(str((error or {}).get("code")))
    if error is None or known is None:
        return error
    told = [chinese.sentence(text) for text in (known.what, known.advice) if text]
    return {**error, "message_zh": "\u3002".join(filter(None, told))}


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    return {
        "object": "job.attempt",
        "job_id": attempt.job_id,
        "number": attempt.number,
        "worker_id": attempt.worker_id,
        "status": attempt.status,
        "reason": attempt.reason,
        "adjustments": attempt.adjustments,
        "error": attempt.error,
        "started_at": attempt.started_at.isoformat(),
        "ended_at": attempt.ended_at.isoformat() if attempt.ended_at else None,
    }


def list_json(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "has_more": has_more, "first_id": first, "last_id": last}
