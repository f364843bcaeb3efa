"""The parameters of each kind of job as data: what forms and command lines are made of."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify
from flask_smorest import Blueprint

from gateway import body, openapi
from shared import schema
from shared.param import Param
from shared.spec import SPECS

blueprint = Blueprint("parameters", __name__, description="What can be set")


@blueprint.route("/v1/parameters", methods=["GET"])
@blueprint.doc(responses=openapi.ok("ParameterList"))
def list_parameters() -> Response:
    """List the parameters of a kind of job (`?kind=train`): type, range, default, meaning, advice"""
    kind = body.one_of("kind", tuple(SPECS), "train")
    data = [parameter_json(param) for param in schema.params(SPECS[str(kind)])]
    return jsonify({"object": "list", "data": data, "has_more": False})


def parameter_json(param: Param) -> dict[str, Any]:
    return {
        "name": param.wire,
        "group": param.path[0] if len(param.path) > 1 else None,
        "type": param.type.__name__,
        "required": param.required,
        "default": None if param.required else param.default_value,
        "minimum": param.minimum,
        "maximum": param.maximum,
        "choices": list(param.choices),
        "doc": param.doc,
        "unit": param.unit,
        "advice": param.advice,
        "source": param.source,
        "secret": param.secret,
        "aliases": list(param.aliases),
        "deprecated": list(param.deprecated),
    }
