"""Models, one resource for both worlds: OpenAI's members and ours. Base models are registered here, others by jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from flask import Response, jsonify, request
from flask_smorest import Blueprint

from gateway import body, evaluations, lineage, marks, openapi, pushing
from gateway.admission import user_of
from gateway.auth import project_id, require_admin
from gateway.downloads import find
from gateway.services import services
from shared import catalog
from shared.errors import Complaint, Conflict, InvalidSpec, NotFound
from shared.ids import new_id
from shared.records import Model, NewModel
from shared.store.checkpoints import MARK
from shared.tongues import Text

blueprint = Blueprint("models", __name__, url_prefix="/v1/models", description="The catalog")

MAX_NAME_CHARS = 200
#: Of a record, by which models are listed.
MEMBERS = ("kind", "family", "base_model")
FILTERS: list[dict[str, Any]] = [
    {"in": "query", "name": name, "schema": {"type": "string"}, "description": f"Only models with this {name}."}
    for name in (*MEMBERS, "tag")
]
#: Files that run code when they are loaded.
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@blueprint.route("", methods=["POST"])
@blueprint.doc(requestBody=openapi.body_of("NewModel"), responses=openapi.created("Model"))
def register() -> Response:
    """Register a base model from a folder below an import root, or from the Hub

    A folder is copied into the artifact store and sealed. A model of the Hub stays there: who needs it downloads it.
    """
    given = body.json_object()
    name, source = _checked(given), given["model_name_or_path"]
    # The second of two at once waits and finds the first one's, instead of copying gigabytes again.
    with services().locks.holding("model", project_id(), name):
        twin = _twin(name, source)
        model = twin or _registered_from(name, source)
    answer = jsonify(model_json(model))
    answer.status_code = 200 if twin else 201
    return answer


def _twin(name: str, source: str) -> Model | None:
    """The model of this name, when it came from there. Raises Conflict when it came from elsewhere."""
    twin = _registered(name)
    if twin and twin.metadata.get("source") != source:
        raise Conflict(
            "There is a model {name!r} already: choose another name or delete it first", field="name", name=name
        )
    return twin


def _registered_from(name: str, source: str) -> Model:
    path = _folder(source)
    if path is not None:
        return _copied(name, path, source)
    new = NewModel(
        name=name,
        kind="base",
        uri=catalog.HUB + source,
        digest="",
        size_bytes=0,
        format="safetensors",
        metadata={"source": source},
    )
    return services().store.models.create(project_id(), new)


def _copied(name: str, path: Path, source: str) -> Model:
    uri = services().artifacts.uri("models", new_id("model-"))
    try:
        return _sealed(name, path, source, uri)
    except BaseException:  # a full disk, or another gateway that was faster: nothing may be left without a record
        services().artifacts.delete(uri)
        raise


def _sealed(name: str, path: Path, source: str, uri: str) -> Model:
    sealed = services().artifacts.put_folder(path, uri)
    new = NewModel(
        name=name,
        kind="base",
        uri=sealed.uri,
        digest=sealed.digest,
        size_bytes=sealed.size_bytes,
        format="safetensors",
        config=json.loads((path / "config.json").read_text()),
        metadata={"source": source},
    )
    return services().store.models.create(project_id(), new)


@blueprint.route("", methods=["GET"])
@blueprint.doc(parameters=FILTERS, responses=openapi.ok("ModelList"))
def list_models() -> Response:
    """List models: base models, adapters, merged and quantized ones, oldest first"""
    wanted = {name: value for name in MEMBERS if (value := request.args.get(name)) is not None}
    found = services().store.models.list(project_id(), **wanted)
    if (tag := request.args.get("tag")) is not None:
        found = [model for model in found if tag in model.tags]
    return jsonify({"object": "list", "data": [model_json(model) for model in found]})


@blueprint.route("/<path:name>", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Model"))
def retrieve(name: str) -> Response:
    """Look at a model: where it comes from, what came of it, where it was pushed to, and what was measured of it

    By its name, or as a version of its family: `name@3`, `name@latest`, `name@<alias>`.
    """
    model = find(name)
    told: dict[str, Any] = {
        "lineage": lineage.lineage(services(), model),
        "derived": lineage.derived(services(), model),
    }
    told |= {"pushes": pushing.of_model(services(), model), "evaluations": evaluations.of_model(model)}
    return jsonify(model_json(model) | told | {"config": model.config})


@blueprint.route("/<path:name>", methods=["PATCH"])
@blueprint.doc(requestBody=openapi.body_of("ModelChange"), responses=openapi.ok("Model"))
def change(name: str) -> Response:
    """Give a model aliases and tags, or metadata

    `aliases` and `tags` replace those that it has; an alias goes over from the version of the same family that has it.
    Of `metadata` the given pairs are set, those that are null removed.
    """
    model = find(name)
    if model.id.startswith(MARK):
        text = "{name!r} is a checkpoint, which has no aliases, tags and metadata: export it first"
        raise Conflict(text, name=name)
    changes = marks.load(body.json_object())
    return jsonify(model_json(services().store.models.update(project_id(), model.name, **changes)))


@blueprint.route("/<path:name>", methods=["DELETE"])
@blueprint.doc(responses=openapi.ok("Deleted"))
def delete(name: str) -> Response:
    """Delete a model and its files; a base model only as admin

    Not while a deployment, a job that is not over, or an adapter on it needs it.
    """
    model = find(name)
    if model.id.startswith(MARK):
        services().store.checkpoints.delete(project_id(), str(model.job_id), model.id)
        return jsonify({"id": name, "object": "model", "deleted": True})
    if model.kind == "base":
        require_admin("delete a base model")
    if user := user_of(services(), project_id(), "model", {model.name}):
        raise Conflict(
            "Model {name!r} is used by job {user}: cancel it first or wait for its end", name=model.name, user=user
        )
    services().store.models.delete(project_id(), model.name)
    if not catalog.is_on_hub(model.uri):
        services().artifacts.delete(model.uri)
    return jsonify({"id": name, "object": "model", "deleted": True})


def _checked(given: dict[str, Any]) -> str:
    """The name. Raises InvalidSpec with every complaint."""
    complaints = [
        Complaint(field=field, message="is unknown: use name and model_name_or_path", code="unknown_field")
        for field in given
        if field not in ("name", "model_name_or_path")
    ]
    for field in ("name", "model_name_or_path"):
        value = given.get(field)
        if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > MAX_NAME_CHARS:
            message = Text("must be a text of 1 to {most} characters", most=MAX_NAME_CHARS)
            complaints.append(Complaint(field=field, message=message))
    if complaints:
        raise _refusal(*complaints)
    return str(given["name"])


def _folder(name: str) -> Path | None:
    """The folder that is meant; None for a model of the Hub."""
    field = "model_name_or_path"
    path = next(_below_import_roots(name), None)
    if path is None and services().settings.hub and catalog.is_hub_id(name):
        return None
    if path is None:
        text = "is {name!r}: must be a folder below TUNESMITH_IMPORT_ROOTS, or a Hub id where TUNESMITH_HUB is on"
        message = Text(text, name=name)
        raise _refusal(Complaint(field=field, message=message, code="model_not_found"))
    if wrong := _unfit(path):
        raise _refusal(Complaint(field=field, message=Text("is {name!r}: {wrong}", name=name, wrong=wrong)))
    return path


def _below_import_roots(name: str) -> Iterator[Path]:
    """As an absolute path: a model of the catalog may have the folder's name, and the folder is meant."""
    settings = services().settings
    for root in settings.import_roots:
        # OSError: a name that no file can have.
        with suppress(NotFound, OSError):
            found = catalog.resolve_model(services().store, settings, project_id(), str(root / name))
            if found.path is not None:
                yield found.path


def _unfit(folder: Path) -> Text | None:
    """Why the folder cannot be registered."""
    if not folder.is_dir():
        return Text("not a folder")
    files = [path for path in folder.rglob("*") if path.is_file()]
    outside = [path for path in folder.rglob("*") if not path.resolve().is_relative_to(folder)]
    if outside:
        return Text("{name} is a link to a place outside of the folder", name=outside[0].name)
    if pickled := [path.name for path in files if path.suffix in PICKLED]:
        return Text("{name} may run code when it is loaded: only safetensors are taken", name=pickled[0])
    if not any(path.suffix == ".safetensors" for path in files):
        return Text("it holds no *.safetensors")
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return Text("it holds no readable config.json")
    told = isinstance(config, dict) and config.get("model_type")
    return None if told else Text("its config.json has no model_type")


def _registered(name: str) -> Model | None:
    try:
        return services().store.models.get(project_id(), name)
    except NotFound:
        return None


def _refusal(*complaints: Complaint) -> InvalidSpec:
    return InvalidSpec("; ".join(f"{c.field} {c.message}" for c in complaints), complaints=complaints)


def model_json(model: Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": "tunesmith",
        "root": model.name,
        "parent": model.parent,
        "kind": model.kind,
        "base_model": model.base_model,
        "job_id": model.job_id,
        "format": model.format,
        "size_bytes": model.size_bytes,
        "digest": model.digest,
        "family": model.family or model.name,
        "version": model.version,
        "aliases": model.aliases,
        "tags": model.tags,
        "metadata": model.metadata,
    }
