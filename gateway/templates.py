"""The chat templates that jobs may name, and which of them belong to a model."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request
from flask_smorest import Blueprint

from gateway import openapi
from gateway.admission import record_of
from gateway.auth import project_id
from gateway.services import services
from shared import templates
from shared.templates import families

blueprint = Blueprint("templates", __name__, description="Chat templates")
MODEL: list[dict[str, Any]] = [
    {"in": "query", "name": "model", "schema": {"type": "string"}, "description": "Only those taught to this model."},
]


@blueprint.route("/v1/templates", methods=["GET"])
@blueprint.doc(parameters=MODEL, responses=openapi.ok("TemplateList"))
def list_templates() -> Response:
    """List the chat templates: families, system prompt, stop words, tool format; with `?model=` the likeliest first

    Leaving `template` out of a job is nearly always right: the model's own is used then.
    """
    model = request.args.get("model")
    names = [name for name in templates.names() if name != templates.OWN] if model is None else taught(model)
    return jsonify({"object": "list", "data": [template_json(name) for name in names], "has_more": False})


def taught(model: str) -> list[str]:
    """Templates of a model: by its name, and by its type where the catalog knows it."""
    record = record_of(services(), project_id(), model)
    return list(families.for_model(model, record.config.get("model_type") if record else None))


def template_json(name: str) -> dict[str, Any]:
    made = templates.get(name)
    return {
        "name": name,
        "model_types": families.models_of(name),
        "default_system": made.default_system,
        "stop_words": list(made.stop_words),
        "tool_format": made.tool_format,
        "thinks": made.reasoning,
        "ends_once": made.ends_once,
        "text_only": bool(made.refused),
    }
