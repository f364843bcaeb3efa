"""Workers as they report themselves: what they do, on which devices, and who has these now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response, jsonify
from flask_smorest import Blueprint

from gateway import openapi
from gateway.auth import project_id
from gateway.jobs import list_json
from gateway.services import services
from shared import requirements
from shared.lineup import Running
from shared.records import Worker

blueprint = Blueprint("workers", __name__, url_prefix="/v1/workers", description="Workers and their devices")


@blueprint.route("", methods=["GET"])
@blueprint.doc(responses=openapi.ok("WorkerList"))
def list_workers() -> Response:
    """List workers, their devices, who holds these, and how long ago each worker was heard of"""
    running = services().lineups.current(services()).running
    known = {job.id: job for job in running.values()}
    data = [worker_json(worker, running.get(worker.id), known) for worker in services().store.workers.list()]
    return jsonify(list_json(data, False))


def worker_json(worker: Worker, job: Running | None, known: Mapping[str, Running]) -> dict[str, Any]:
    held = {device["id"]: device.get("held_by") for device in worker.machine.get("devices", ())}
    return {
        "id": worker.id,
        "object": "worker",
        "kinds": worker.kinds,
        "host": worker.host,
        "labels": worker.labels,
        "devices": [
            {
                "id": device.id,
                "name": device.kind,
                "memory_gib": device.memory_gib,
                "busy": held.get(device.id) is not None,
                "held_by": _holder(held.get(device.id), known),
            }
            for device in requirements.of_worker(worker)
        ],
        "busy": job is not None,
        "job": None if job is None else _job(job),
        "version": worker.version,
        "age_seconds": round(worker.age_seconds, 1),
        "alive": worker.age_seconds < services().settings.lease_seconds,
    }


def _job(job: Running) -> dict[str, Any]:
    left = None if job.seconds_left is None else round(job.seconds_left)
    return {"id": job.id if job.project_id == project_id() else None, "kind": job.kind, "seconds_left": left}


def _holder(holder: Mapping[str, Any] | None, known: Mapping[str, Running]) -> dict[str, Any] | None:
    """The job or replica; of another project only what kind it is."""
    if holder is None:
        return None
    job = known.get(str(holder.get("id")))
    is_mine = job is not None and job.project_id == project_id()
    return {"id": holder.get("id") if is_mine else None, "kind": holder.get("kind")}
