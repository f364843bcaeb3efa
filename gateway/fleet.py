"""What becomes of a deployment after it was made: changes of its spec, its events, the logs of its replicas.

A change is checked as a new deployment is. The replicas are brought there by shared/rollout.py and the workers; nobody
waits for it here.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask import Response, jsonify
from flask_smorest import Blueprint

from gateway import adapters, body, openapi
from gateway.auth import project_id
from gateway.deployments import admitted, deployment_json
from gateway.services import services
from shared import schema
from shared.errors import Complaint
from shared.records import DeploymentEvent
from shared.spec import DeploySpec
from shared.store.fleet_events import MAX_NUMBER
from shared.tongues import Text, chinese

blueprint = Blueprint("fleet", __name__, url_prefix="/v1/deployments", description="Deployments as they go on")


@blueprint.route("/<path:name>", methods=["PATCH"])
@blueprint.doc(requestBody=openapi.body_of("DeploymentChange", yaml=True), responses=openapi.ok("Deployment"))
def change(name: str) -> Response:
    """Change a deployment: more or fewer replicas, another model, any other of its parameters

    What is given replaces what was there, null means the default. Replicas of the new spec are started beside the old
    ones, which answer until those are ready; should a new one fail, the old spec goes on and `rollout` says why. An
    empty object starts replicas again that were given up.
    """
    found = services().store.deployments.get(project_id(), name)
    spec, wire = admitted(schema.amended(DeploySpec, found.spec, body.spec_object()))
    if wire["name"] != found.spec.get("name"):
        text = Text("cannot be changed: {name!r} is what requests ask for; make another, or a route", name=found.name)
        raise schema.refusal([Complaint(field="name", message=text)])
    files = adapters.files_of(services(), project_id(), spec.served)
    changed = services().store.deployments.update(project_id(), found, wire, spec.served, files)
    return jsonify(deployment_json(changed))


@blueprint.route("/<path:name>/events", methods=["GET"])
@blueprint.doc(parameters=openapi.NUMBERED_PAGE, responses=openapi.ok("DeploymentEventList"))
def events(name: str) -> Response:
    """What happened to a deployment and its replicas, oldest first

    `after` is the number of the last event seen; with `order=desc` the newest come first, and `after` is the oldest.
    """
    deployment = services().store.deployments.get(project_id(), name)
    limit = body.whole_number("limit", 100, minimum=1, maximum=1000)
    after = body.whole_number("after", 0, maximum=MAX_NUMBER)
    is_newest_first = body.one_of("order", ("asc", "desc"), "asc") == "desc"
    read = services().store.deployment_events.list
    found = read(project_id(), deployment.id, after=after, limit=limit + 1, newest_first=is_newest_first)
    data = [event_json(event) for event in found[:limit]]
    return jsonify({"object": "list", "data": data, "has_more": len(found) > limit})


@blueprint.route("/<path:name>/log", methods=["GET"])
@blueprint.doc(responses=openapi.plain("Each replica's, under a line that names it.", "text/plain"))
def log(name: str) -> Response:
    """The last lines that the replicas' servers wrote: while they start, and of those that failed"""
    deployment = services().store.deployments.get(project_id(), name)
    told = [(one, one.log_tail) for one in deployment.replicas if one.status != "stopped" and one.log_tail]
    text = "\n".join(f"==> {one.id}, {one.status}\n{tail.rstrip()}\n" for one, tail in told)
    return Response(text, mimetype="text/plain")


def event_json(event: DeploymentEvent) -> dict[str, Any]:
    told = {"object": "deployment.event", "created_at": event.created_at.isoformat()}
    return asdict(event) | told | {"data": chinese.beside(event.message, event.data)}
