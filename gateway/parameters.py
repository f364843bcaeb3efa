"""The parameters of each kind of job as data: what forms and command lines are made of."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify
from flask_smorest import Blueprint

from gateway import body, openapi
from shared import schema
from shared.param import Param
from shared.spec import SPECS
from shared.tongues import chinese

blueprint = Blueprint("parameters", __name__, description="What can be set")


@blueprint.route("/v1/parameters", methods=["GET"])
@blueprint.doc(responses=openapi.ok("ParameterList"))
def list_parameters() -> Response:
    """List the parameters of a kind of job (`?kind=train`): type, range, default, meaning, advice in two tongues

    `picture` is a metaphor for beginners; `zh` has the Chinese `doc`, `advice` and `picture`.
    """
    kind = str(body.one_of("kind", tuple(SPECS), "train"))
    data = [parameter_json(kind, param) for param in schema.params(SPECS[kind])]
    return jsonify({"object": "list", "data": data, "has_more": False})


def parameter_json(kind: str, param: Param) -> dict[str, Any]:
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
        "picture": param.picture,
        "zh": dict(chinese.parameter(kind, param.wire)),
        "source": param.source,
        "secret": param.secret,
        "aliases": list(param.aliases),
        "deprecated": list(param.deprecated),
    }
