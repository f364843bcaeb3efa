"""The OpenAPI description: bodies of specs derive from the parameters' declarations, answers are described by hand.

Every route's docstring is its text. The page at /docs comes from the package swagger-ui-bundle: no file from elsewhere.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import swagger_ui_bundle
from flask import Blueprint, Flask, Response, request
from flask_smorest import Api

from shared import schema
from shared.bulk import ENDPOINTS
from shared.job import Kind
from shared.requirements import Requirements
from shared.spec import SPECS

#: Whatever is refused, and whatever goes wrong, has this one form.
ERRORS: dict[str, Any] = {
    status: {"$ref": "#/components/responses/Problem"} for status in ("401", "404", "422", "default")
}
#: The page at /docs starts itself from a script within it, and its icons are data.
DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'"
)
PAGE: list[dict[str, Any]] = [
    {"in": "query", "name": "after", "schema": {"type": "string"}, "description": "Id of the last record seen."},
    {"in": "query", "name": "limit", "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}},
    {"in": "query", "name": "order", "schema": {"type": "string", "enum": ["asc", "desc"], "default": "desc"}},
]
AFTER_NUMBER: list[dict[str, Any]] = [
    {"in": "query", "name": "after", "schema": {"type": "integer"}, "description": "Number of the last event seen."},
]
NUMBERED_PAGE: list[dict[str, Any]] = [
    *AFTER_NUMBER,
    {"in": "query", "name": "limit", "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}},
    {"in": "query", "name": "order", "schema": {"type": "string", "enum": ["asc", "desc"], "default": "asc"}},
]
FILE_PATH: list[dict[str, Any]] = [
    {"in": "query", "name": "path", "schema": {"type": "string"}, "description": "The file to download."},
]
EVENT_STREAM: dict[str, Any] = {
    "200": {
        "description": "One event per id; ends after `event: done`.",
        "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/Event"}}},
    },
    **ERRORS,
}


def _any_spec(media_type: str) -> dict[str, Any]:
    kinds = [{"$ref": f"#/components/schemas/{SPECS[kind].__name__}"} for kind in Kind]
    return {media_type: {"schema": {"oneOf": kinds}}}


SPEC_BODY: dict[str, Any] = {
    "required": True,
    "content": _any_spec("application/json") | _any_spec("application/yaml"),
}
PLAN_BODY: dict[str, Any] = {
    "required": True,
    "description": "A job's body, and beside its fields those of a plan.",
    "content": {
        media_type: {"schema": {"allOf": [content["schema"], {"$ref": "#/components/schemas/PlanRequest"}]}}
        for media_type, content in SPEC_BODY["content"].items()
    },
}
UPLOAD_BODY: dict[str, Any] = {
    "required": True,
    "content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/Upload"}}},
}


MODEL_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/NewModel"}},
        "multipart/form-data": {"schema": {"$ref": "#/components/schemas/ModelUpload"}},
    },
}


def body_of(name: str, *, yaml: bool = False) -> dict[str, Any]:
    types = ("application/json", "application/yaml") if yaml else ("application/json",)
    schema_of = {"schema": {"$ref": f"#/components/schemas/{name}"}}
    return {"required": True, "content": dict.fromkeys(types, schema_of)}


def ok(name: str, status: str = "200") -> dict[str, Any]:
    schema_of = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    return {status: {"description": name, "content": schema_of}, **ERRORS}


def plain(description: str, media_type: str) -> dict[str, Any]:
    """An answer that is no JSON of a record."""
    return {"200": {"description": description, "content": {media_type: {}}}, **ERRORS}


def created(name: str) -> dict[str, Any]:
    return ok(name, "201")


def download(description: str, media_type: str) -> dict[str, Any]:
    """A file, whole or a range of it."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    part = {"206": {"description": "The range that was asked for.", "content": content}}
    known = {"304": {"description": "As If-None-Match has it."}, "416": {"$ref": "#/components/responses/Problem"}}
    return {"200": {"description": description, "content": content}, **part, **known, **ERRORS}


def install(app: Flask) -> Api:
    """Makes the Api on which blueprints are registered, the description's components and the page."""
    app.config.update(
        API_TITLE="Tunesmith",
        API_VERSION=version("tunesmith"),
        # 3.0: the newest that the bundled page reads.
        OPENAPI_VERSION="3.0.3",
        OPENAPI_URL_PREFIX="/",
        OPENAPI_SWAGGER_UI_PATH="/docs",
        OPENAPI_SWAGGER_UI_URL="/docs/static/",
    )
    files = str(swagger_ui_bundle.swagger_ui_path)
    app.register_blueprint(
        Blueprint("swagger", __name__, static_folder=files, static_url_path="", url_prefix="/docs/static")
    )
    api = Api(app)
    # No description of errors of its own making: ours look otherwise.
    api.DEFAULT_ERROR_RESPONSE_NAME = None
    _components(api)
    app.after_request(_guard_docs)
    return api


def _guard_docs(answer: Response) -> Response:
    if request.endpoint == "api-docs.openapi_swagger_ui":
        answer.headers["Content-Security-Policy"] = DOCS_POLICY
    return answer


def _components(api: Api) -> None:
    components = api.spec.components
    for spec_type in (*SPECS.values(), Requirements):
        components.schema(spec_type.__name__, schema=schema.marshmallow_schema(spec_type))
    for name, described in SCHEMAS.items():
        components.schema(name, described)
        components.schema(f"{name}List", _list_of(name))
    components.schema("Problem", PROBLEM)
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    components.response("Problem", {"description": "What is wrong, and with which fields.", "content": content})
    components.security_scheme("key", {"type": "http", "scheme": "bearer"})
    api.spec.options["security"] = [{"key": []}]


def _list_of(name: str) -> dict[str, Any]:
    items = {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}
    return {"type": "object", "properties": {"object": _TEXT, "data": items, "has_more": {"type": "boolean"}}}


_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "integer"}
_SWITCH: dict[str, Any] = {"type": "boolean"}
_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT}
_TIME: dict[str, Any] = {"type": "string", "format": "date-time"}


_TARGETS: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["model"],
        "properties": {"model": _TEXT, "weight": {"type": "number", "minimum": 0, "default": 1}},
    },
}


def _record(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"id": _TEXT, "object": _TEXT, **properties}}


SCHEMAS: dict[str, dict[str, Any]] = {
    "Job": _record(
        kind=_TEXT, name=_TEXT, status=_TEXT, phase=_TEXT, spec=_OBJECT, progress=_OBJECT, result=_OBJECT, model=_TEXT,
        error=_OBJECT, attempt=_NUMBER, adjustments=_OBJECT, queue_position=_NUMBER, queue=_OBJECT, priority=_NUMBER,
        requires=_OBJECT, request_id=_TEXT, trace_id=_TEXT, created_at=_TIME, started_at=_TIME, finished_at=_TIME,
        nodes={"type": "array", "items": _OBJECT},
    ),
    "JobChange": {
        "type": "object",
        "required": ["priority"],
        "properties": {"priority": {"type": "integer", "minimum": -100, "maximum": 100}},
    },
    "Attempt": {
        "type": "object",
        "properties": {
            "object": _TEXT, "job_id": _TEXT, "number": _NUMBER, "worker_id": _TEXT, "status": _TEXT, "reason": _TEXT,
            "adjustments": _OBJECT, "error": _OBJECT, "started_at": _TIME, "ended_at": _TIME,
        },
    },
    "Event": {
        "type": "object",
        "properties": {
            "number": _NUMBER, "job_id": _TEXT, "attempt": _NUMBER, "created_at": _TIME, "level": _TEXT, "type": _TEXT,
            "message": _TEXT, "data": _OBJECT,
        },
    },
    "Checkpoint": _record(
        job_id=_TEXT, name=_TEXT, step=_NUMBER, epoch={"type": "number"}, attempt=_NUMBER, metrics=_OBJECT,
        is_best=_SWITCH, is_newest=_SWITCH, is_resumable=_SWITCH, is_damaged=_SWITCH, kind=_TEXT, base_model=_TEXT,
        size_bytes=_NUMBER, model_size_bytes=_NUMBER, digest=_TEXT, created_at=_TIME,
    ),
    "JobFile": _record(path=_TEXT, size_bytes=_NUMBER, sha256=_TEXT),
    "ModelFile": _record(path=_TEXT, size_bytes=_NUMBER, sha256=_TEXT),
    "Dataset": _record(
        name=_TEXT, filename=_TEXT, purpose=_TEXT, format=_TEXT, kind=_TEXT, columns=_OBJECT, num_rows=_NUMBER,
        size_bytes=_NUMBER, digest=_TEXT, created_at=_TIME,
    ),
    "Preview": {
        "type": "object",
        "properties": {
            "object": _TEXT, "dataset": _TEXT, "model": _TEXT, "template": _TEXT, "lengths": _OBJECT,
            "rows": {"type": "array", "items": _OBJECT}, "findings": {"type": "array", "items": _OBJECT},
        },
    },
    "Model": _record(
        created=_NUMBER, owned_by=_TEXT, kind=_TEXT, base_model=_TEXT, job_id=_TEXT, size_bytes=_NUMBER, digest=_TEXT,
        format=_TEXT, family=_TEXT, version=_NUMBER, aliases=_TEXTS, tags=_TEXTS, metadata=_OBJECT, parent=_TEXT,
        root=_TEXT, in_catalog=_SWITCH, served_by=_TEXTS, status=_TEXT, answers=_SWITCH,
        config=_OBJECT, derived=_TEXTS, lineage={"type": "array", "items": _OBJECT},
        pushes={"type": "array", "items": _OBJECT},
        evaluations={"type": "array", "items": _OBJECT},
    ),
    "ModelChange": {"type": "object", "properties": {"aliases": _TEXTS, "tags": _TEXTS, "metadata": _OBJECT}},
    "Evaluation": _record(
        model=_TEXT, dataset=_TEXT, dataset_id=_TEXT, dataset_digest=_TEXT, task=_TEXT, num_samples=_NUMBER,
        metrics=_OBJECT, spec=_OBJECT, job_id=_TEXT, created_at=_TIME,
    ),
    "Deployment": _record(
        name=_TEXT, model=_TEXT, status=_TEXT, error=_TEXT, replicas={"type": "array", "items": _OBJECT}, spec=_OBJECT,
        host=_TEXT, placement=_TEXT, waiting=_TEXT, generation=_NUMBER, rollout=_OBJECT, num_wanted=_NUMBER,
        asked_at=_TIME, created_at=_TIME,
    ),
    "Preset": _record(
        name=_TEXT, description=_TEXT, parameters=_OBJECT, created_at=_TIME, updated_at=_TIME
    ),
    "NewPreset": {
        "type": "object",
        "required": ["name", "parameters"],
        "properties": {"name": _TEXT, "description": _TEXT, "parameters": _OBJECT},
    },
    "PresetChange": {
        "type": "object",
        "required": ["parameters"],
        "properties": {"description": _TEXT, "parameters": _OBJECT},
    },
    "DeploymentChange": {
        "type": "object", "additionalProperties": True,
        "description": "Any parameters of DeploySpec but `name`; null means the default.",
    },
    "DeploymentEvent": {
        "type": "object",
        "properties": {
            "object": _TEXT, "number": _NUMBER, "deployment_id": _TEXT, "replica_id": _TEXT, "created_at": _TIME,
            "level": _TEXT, "type": _TEXT, "message": _TEXT, "data": _OBJECT,
        },
    },
    "Route": _record(name=_TEXT, targets={"type": "array", "items": _OBJECT}, created_at=_TIME, updated_at=_TIME),
    "NewRoute": {"type": "object", "required": ["name", "targets"], "properties": {"name": _TEXT, "targets": _TARGETS}},
    "RouteChange": {"type": "object", "required": ["targets"], "properties": {"targets": _TARGETS}},
    "Worker": _record(
        kinds={"type": "array", "items": _TEXT}, host=_TEXT, labels={"type": "array", "items": _TEXT},
        devices={"type": "array", "items": _OBJECT}, busy={"type": "boolean"}, job=_OBJECT,
        age_seconds={"type": "number"}, alive={"type": "boolean"}, version=_TEXT,
    ),
    "Parameter": {
        "type": "object",
        "properties": {
            "name": _TEXT, "type": _TEXT, "default": {}, "required": {"type": "boolean"}, "doc": _TEXT, "unit": _TEXT,
            "advice": _TEXT, "source": _TEXT, "minimum": {"type": "number"}, "maximum": {"type": "number"},
            "choices": {"type": "array", "items": {}}, "picture": _TEXT, "zh": _OBJECT,
        },
    },
    "Template": {
        "type": "object",
        "properties": {
            "name": _TEXT, "model_types": {"type": "array", "items": _TEXT}, "default_system": _TEXT,
            "stop_words": {"type": "array", "items": _TEXT}, "tool_format": _TEXT, "thinks": {"type": "boolean"},
            "ends_once": {"type": "boolean"}, "text_only": {"type": "boolean"},
        },
    },
    "File": _record(bytes=_NUMBER, created_at=_NUMBER, filename=_TEXT, purpose=_TEXT, status=_TEXT),
    "FineTuningJob": _record(
        model=_TEXT, training_file=_TEXT, status=_TEXT, hyperparameters=_OBJECT, fine_tuned_model=_TEXT, error=_OBJECT
    ),
    "NewFineTuningJob": {
        "type": "object",
        "required": ["model", "training_file"],
        "properties": {
            "model": _TEXT, "training_file": _TEXT, "validation_file": _TEXT, "suffix": _TEXT, "seed": _NUMBER,
            "metadata": _OBJECT, "method": _OBJECT, "hyperparameters": _OBJECT, "x_train": _OBJECT, "priority": _NUMBER,
            "requires": {"$ref": "#/components/schemas/Requirements"},
        },
    },
    "Batch": _record(
        endpoint=_TEXT, model=_TEXT, errors=_OBJECT, input_file_id=_TEXT, completion_window=_TEXT, status=_TEXT,
        output_file_id=_TEXT, error_file_id=_TEXT, created_at=_NUMBER, expires_at=_NUMBER, request_counts=_OBJECT,
        usage=_OBJECT, metadata=_OBJECT,
    ),
    "NewBatch": {
        "type": "object",
        "required": ["input_file_id", "endpoint", "completion_window"],
        "properties": {
            "input_file_id": _TEXT, "endpoint": {"type": "string", "enum": list(ENDPOINTS)},
            "completion_window": {"type": "string", "example": "24h"}, "metadata": _OBJECT, "priority": _NUMBER,
        },
    },
    "FineTuningEvent": _record(created_at=_NUMBER, level=_TEXT, message=_TEXT, type=_TEXT, data=_OBJECT),
    "FineTuningCheckpoint": _record(
        created_at=_NUMBER, fine_tuning_job_id=_TEXT, fine_tuned_model_checkpoint=_TEXT, step_number=_NUMBER,
        metrics=_OBJECT,
    ),
    "PlanRequest": {
        "type": "object",
        "properties": {
            "gpus": {
                "type": "object",
                "properties": {
                    "kind": _TEXT, "count": _NUMBER, "memory_gib": {"type": "number"},
                    "host_memory_gib": {"type": "number"}, "per_host": _NUMBER,
                },
                "example": {"kind": "A100-80GB", "count": 8},
            },
            "config": _OBJECT, "num_rows": _NUMBER, "lengths": _OBJECT,
            "goal": {"type": "string", "enum": ["style", "knowledge"]},
        },
    },
    "Plan": {
        "type": "object",
        "properties": {
            "object": _TEXT, "kind": _TEXT, "spec": _OBJECT, "training": _OBJECT, "model": _OBJECT, "gpus": _OBJECT,
            "memory": _OBJECT, "options": _OBJECT, "nearest": _OBJECT, "reasons": _OBJECT,
            "export": _OBJECT, "disk": _OBJECT, "seconds": _OBJECT, "formats": {"type": "array", "items": _OBJECT},
            "findings": {"type": "array", "items": _OBJECT},
        },
    },
    "Deleted": _record(deleted={"type": "boolean"}),
    "Health": {
        "type": "object",
        "properties": {"status": _TEXT, "missing": _OBJECT, "warnings": _OBJECT, "broker": _SWITCH},
    },
    "NewModel": {
        "type": "object",
        "required": ["name", "model_name_or_path"],
        "properties": {"name": _TEXT, "model_name_or_path": _TEXT, "base_model": _TEXT},
    },
    "ModelUpload": {
        "type": "object",
        "required": ["name", "files"],
        "properties": {
            "name": _TEXT, "base_model": _TEXT,
            "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
        },
    },
    "Upload": {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "string", "format": "binary"}, "name": _TEXT, "purpose": _TEXT, "formatting": _TEXT,
            "columns": _TEXT, "tags": _TEXT, "ranking": {"type": "boolean"},
            "num_samples": _NUMBER, "dataset_info": _TEXT,
        },
    },
}  # fmt: skip
PROBLEM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": _NUMBER,
        "detail": _TEXT,
        "instance": _TEXT,
        "error": {
            "type": "object",
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": "string", "nullable": True},
                "code": _TEXT,
                "issues": {"type": "array", "items": _OBJECT},
            },
        },
    },
}
