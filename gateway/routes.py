"""Routes: names that clients ask for and operators point at deployments, one or several that share the requests.

`prod` may mean `support@3` today, give a tenth of its requests to `support@4` tomorrow, and mean that alone a day
later: no client changes. What a name means for one request is decided in shared/routing.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from flask import Response, jsonify
from flask_smorest import Blueprint

from gateway import body, openapi
from gateway.auth import project_id
from gateway.jobs import list_json
from gateway.services import services
from shared import routing, schema
from shared.errors import Complaint
from shared.fields import shown
from shared.nearest import did_you_mean
from shared.records import Route
from shared.routing import Fleet
from shared.tongues import Text

blueprint = Blueprint("routes", __name__, url_prefix="/v1/routes", description="Names that stand for deployments")

MAX_TARGETS = 16
MAX_WEIGHT = 1e6
MEMBERS = ("name", "targets")
EXAMPLE = '{"model": name, "weight": number}'


@blueprint.route("", methods=["POST"])
@blueprint.doc(requestBody=openapi.body_of("NewRoute"), responses=openapi.created("Route"))
def create() -> Response:
    """Give deployments a name of their own

    `targets` is a list of `{"model": name, "weight": number}`: a deployment, a model or a version of one that is
    deployed. A weight is the share of the requests that goes there, in proportion to the others; left out it is 1.
    Requests with the same `user` go to the same target while the weights stay.
    """
    given = body.json_object()
    running = routing.fleet(services().store, project_id())
    name, complaints = given.get("name"), [*_unknown(given), *_wrong_name(given)]
    targets, wrong = _targets(given.get("targets"), running)
    if complaints := [*complaints, *wrong]:
        raise schema.refusal(complaints)
    route, _ = services().store.routes.put(project_id(), str(name), targets)
    return _answer(route, running, 201)


@blueprint.route("", methods=["GET"])
@blueprint.doc(responses=openapi.ok("RouteList"))
def list_routes() -> Response:
    """List routes, by name"""
    running = routing.fleet(services().store, project_id())
    return jsonify(list_json([route_json(route, running) for route in running.routes], False))


@blueprint.route("/<path:name>", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Route"))
def retrieve(name: str) -> Response:
    """Look at a route: its targets, and which of them are ready"""
    return _answer(services().store.routes.get(project_id(), name), routing.fleet(services().store, project_id()))


@blueprint.route("/<path:name>", methods=["PUT"])
@blueprint.doc(requestBody=openapi.body_of("RouteChange"), responses=openapi.ok("Route"))
def replace(name: str) -> Response:
    """Point a route elsewhere, or share its requests otherwise

    From the next second on; requests that are being answered are not touched.
    """
    services().store.routes.get(project_id(), name)
    given = body.json_object()
    running = routing.fleet(services().store, project_id())
    targets, wrong = _targets(given.get("targets"), running)
    other = given.get("name", name) != name
    renamed = [Complaint(field="name", message=Text("a route keeps its name: make a new one"))] if other else []
    if complaints := [*_unknown(given), *renamed, *wrong]:
        raise schema.refusal(complaints)
    route, _ = services().store.routes.put(project_id(), name, targets)
    return _answer(route, running)


@blueprint.route("/<path:name>", methods=["DELETE"])
@blueprint.doc(responses=openapi.ok("Deleted"))
def delete(name: str) -> Response:
    """Delete a route; what it pointed at runs on"""
    services().store.routes.delete(project_id(), name)
    return jsonify({"id": name, "object": "route", "deleted": True})


def route_json(route: Route, running: Fleet) -> dict[str, Any]:
    whole = sum(target["weight"] for target in route.targets)
    return {
        "id": route.name,
        "object": "route",
        "name": route.name,
        "targets": [_target_json(target, running, whole) for target in route.targets],
        "created_at": route.created_at.isoformat(),
        "updated_at": route.updated_at.isoformat(),
    }


def _target_json(target: Mapping[str, Any], running: Fleet, whole: float) -> dict[str, Any]:
    meant = routing.named(running, target["model"], partial(routing.version, services().store, project_id()))
    told = {
        "deployment": meant.name if meant else None,
        "num_ready": len(routing.endpoints(running, meant)) if meant else 0,
    }
    return {**target, "share": target["weight"] / whole, **told}


def _answer(route: Route, running: Fleet, status: int = 200) -> Response:
    answer = jsonify(route_json(route, running))
    answer.status_code = status
    return answer


def _unknown(given: Mapping[str, Any]) -> list[Complaint]:
    return [
        Complaint(field=name, message=Text("is unknown{near}", near=did_you_mean(name, MEMBERS)), code="unknown_field")
        for name in given
        if name not in MEMBERS
    ]


def _wrong_name(given: Mapping[str, Any]) -> list[Complaint]:
    name = given.get("name")
    if isinstance(name, str) and name.strip() == name and name and name.isprintable():
        return []
    text = "is {value}: must be a text without spaces around it" if "name" in given else "is missing"
    return [Complaint(field="name", message=Text(text, value=shown(name)))]


def _targets(given: Any, running: Fleet) -> tuple[list[dict[str, Any]], list[Complaint]]:
    """As they are stored, and what is wrong with them."""
    if not isinstance(given, list) or not 0 < len(given) <= MAX_TARGETS:
        text = Text("must be a list of 1 to {most} targets, each {example}", most=MAX_TARGETS, example=EXAMPLE)
        return [], [Complaint(field="targets", message=text)]
    found, complaints = [], []
    for at, target in enumerate(given):
        settled, wrong = _target(target, running, f"targets.{at}")
        found.append(settled)
        complaints += wrong
    if not complaints and not any(target["weight"] for target in found):
        complaints.append(Complaint(field="targets", message=Text("all weights are 0: nobody would answer")))
    return found, complaints


def _target(given: Any, running: Fleet, field: str) -> tuple[dict[str, Any], list[Complaint]]:
    if not isinstance(given, dict) or not isinstance(given.get("model"), str) or set(given) - {"model", "weight"}:
        text = Text("is {value}: must be {example}", value=shown(given), example=EXAMPLE)
        return {}, [Complaint(field=field, message=text)]
    weight, complaints = given.get("weight", 1), []
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= MAX_WEIGHT:
        text = Text("is {value}: must be a number from 0 to {most}", value=shown(weight), most=int(MAX_WEIGHT))
        complaints.append(Complaint(field=f"{field}.weight", message=text))
    if (unknown := _unknown_model(given["model"], running)) is not None:
        complaints.append(Complaint(field=f"{field}.model", message=unknown, code="model_not_found"))
    return {"model": given["model"], "weight": weight}, complaints


def _unknown_model(name: str, running: Fleet) -> Text | None:
    store = services().store
    if any(route.name == name for route in running.routes):
        return Text("{name!r} is a route itself: name what it points at", name=name)
    if routing.named(running, name, partial(routing.version, store, project_id())) is not None:
        return None
    if routing.version(store, project_id(), name) is not None:
        return None  # It may be deployed later; until then the others answer.
    models = [model.name for model in store.models.list(project_id())]
    known = [*(deployment.name for deployment in running.deployments), *models]
    return Text("there is no deployment or model {name!r}{near}", name=name[:200], near=did_you_mean(name, known))
