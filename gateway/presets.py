"""Presets: generation parameters under a name, which requests and generation jobs take over by `preset`.

What a request says itself goes before its preset, and that before what the deployment says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response, jsonify
from flask_smorest import Blueprint

from gateway import body, generation, openapi
from gateway.auth import project_id
from gateway.jobs import list_json
from gateway.services import services
from shared import schema
from shared.errors import Complaint
from shared.fields import shown
from shared.nearest import did_you_mean
from shared.records import Preset
from shared.tongues import Text

blueprint = Blueprint("presets", __name__, url_prefix="/v1/presets", description="Generation parameters by name")

MEMBERS = ("name", "description", "parameters")
MAX_DESCRIPTION_CHARACTERS = 2_000


@blueprint.route("", methods=["POST"])
@blueprint.doc(requestBody=openapi.body_of("NewPreset"), responses=openapi.created("Preset"))
def create() -> Response:
    """Keep generation parameters under a name

    `parameters` has any of `GET /v1/parameters?kind=generate`, group `sampling`. A preset of the same name is replaced.
    """
    given = body.json_object()
    complaints = [*_wrong(given), *_wrong_name(given.get("name"))]
    if complaints:
        raise schema.refusal(complaints)
    return _kept(str(given["name"]), given)


@blueprint.route("", methods=["GET"])
@blueprint.doc(responses=openapi.ok("PresetList"))
def list_presets() -> Response:
    """List presets, by name"""
    found = services().store.presets.list(project_id())
    return jsonify(list_json([preset_json(preset) for preset in found], False))


@blueprint.route("/<path:name>", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Preset"))
def retrieve(name: str) -> Response:
    """Look at a preset"""
    return jsonify(preset_json(services().store.presets.get(project_id(), name)))


@blueprint.route("/<path:name>", methods=["PUT"])
@blueprint.doc(requestBody=openapi.body_of("PresetChange"), responses=openapi.ok("Preset"))
def replace(name: str) -> Response:
    """Make a preset, or give it other parameters

    Requests that are being answered and jobs that were created keep what it said before.
    """
    given = body.json_object()
    complaints = [*_wrong(given), *_wrong_name(name)]
    if given.get("name", name) != name:
        complaints.append(Complaint(field="name", message=Text("a preset keeps its name: make a new one")))
    if complaints:
        raise schema.refusal(complaints)
    return _kept(name, given)


@blueprint.route("/<path:name>", methods=["DELETE"])
@blueprint.doc(responses=openapi.ok("Deleted"))
def delete(name: str) -> Response:
    """Delete a preset"""
    services().store.presets.delete(project_id(), name)
    return jsonify({"id": name, "object": "preset", "deleted": True})


def preset_json(preset: Preset) -> dict[str, Any]:
    return {
        "id": preset.name,
        "object": "preset",
        "name": preset.name,
        "description": preset.description,
        "parameters": preset.parameters,
        "created_at": preset.created_at.isoformat(),
        "updated_at": preset.updated_at.isoformat(),
    }


def _kept(name: str, given: Mapping[str, Any]) -> Response:
    preset, is_new = services().store.presets.put(project_id(), name, given["parameters"], given.get("description"))
    answer = jsonify(preset_json(preset))
    answer.status_code = 201 if is_new else 200
    return answer


def _wrong(given: Mapping[str, Any]) -> list[Complaint]:
    unknown = [
        Complaint(field=name, message=Text("is unknown{near}", near=did_you_mean(name, MEMBERS)), code="unknown_field")
        for name in given
        if name not in MEMBERS
    ]
    told = given.get("description")
    if told is not None and (not isinstance(told, str) or len(told) > MAX_DESCRIPTION_CHARACTERS or "\0" in told):
        text = Text("is {value}: must be a text of up to {most} characters", value=shown(told),
                    most=MAX_DESCRIPTION_CHARACTERS)  # fmt: skip
        unknown.append(Complaint(field="description", message=text))
    parameters = given.get("parameters")
    if not isinstance(parameters, dict):
        text = Text("is {value}: must be an object of generation parameters", value=shown(parameters))
        return [*unknown, Complaint(field="parameters", message=text)]
    return [*unknown, *generation.kept_complaints(parameters, "parameters")]


def _wrong_name(name: Any) -> list[Complaint]:
    if isinstance(name, str) and name.strip() == name and name and name.isprintable():
        return []
    text = "is {value}: must be a text without spaces around it"
    return [Complaint(field="name", message=Text(text, value=shown(name)))]
