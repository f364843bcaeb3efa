"""Models, one resource for both worlds: OpenAI's members and ours. Files below them are gateway/downloads.py's.

Names that clients ask beside those of the catalog (deployments, routes, aliases) are listed and looked at here, and
changed where they are made.
"""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request
from flask_smorest import Blueprint

from gateway import body, evaluations, lineage, marks, modeluploads, openapi, pushing, registering
from gateway.admission import user_of
from gateway.auth import project_id, require_admin
from gateway.downloads import find
from gateway.servednames import Named, Names, named_json
from gateway.services import services
from shared import catalog
from shared.errors import Conflict, ModelNotFound
from shared.records import Model
from shared.store.checkpoints import MARK

blueprint = Blueprint("models", __name__, url_prefix="/v1/models", description="The catalog")

#: Of a record, by which models are listed.
MEMBERS = ("kind", "family", "base_model")
FILTERS: list[dict[str, Any]] = [
    {"in": "query", "name": name, "schema": {"type": "string"}, "description": f"Only models with this {name}."}
    for name in (*MEMBERS, "tag")
]
#: True or false of a name, by which models are listed too.
FLAGS = {"answers": "Only names that are answered now, or only others.",
         "in_catalog": "Only models of the catalog, or only other names."}  # fmt: skip
FILTERS += [
    {"in": "query", "name": name, "schema": {"type": "boolean"}, "description": text} for name, text in FLAGS.items()
]
#: Members of a name that stands for no single model of the catalog.
NO_MODEL = dict.fromkeys(("parent", "base_model", "job_id", "format", "size_bytes", "digest", "version"))


@blueprint.route("", methods=["POST"])
@blueprint.doc(requestBody=openapi.MODEL_BODY, responses=openapi.created("Model"))
def register() -> Response:
    """Register a base model, or an adapter on one: a folder below an import root, a model of the Hub, or an upload

    A folder is copied into the artifact store and sealed. A model of the Hub stays there: who needs it downloads it.
    An upload is multipart: `name`, and the files as parts `files` with their paths as file names. A folder with an
    adapter_config.json is an adapter, on `base_model` or the model that its config names.
    """
    is_upload = request.mimetype == "multipart/form-data"
    wanted = registering.wish(request.form.to_dict() if is_upload else body.json_object(), is_upload=is_upload)
    # The second of two at once waits and finds the first one's, instead of copying gigabytes again.
    with services().locks.holding("model", project_id(), wanted.name):
        if is_upload:
            with modeluploads.folder() as folder:
                model, created = registering.uploaded(wanted, folder)
        else:
            model, created = registering.register(wanted)
    answer = jsonify(_of_catalog(model))
    answer.status_code = 201 if created else 200
    return answer


@blueprint.route("", methods=["GET"])
@blueprint.doc(parameters=FILTERS, responses=openapi.ok("ModelList"))
def list_models() -> Response:
    """List models: the catalog, oldest first, then other names of deployments, routes and deployed aliases

    Each name once: what a request may send as `model`. `kind` says what it is (`deployment`, `route` and `alias` beside
    the kinds of models), `served_by` which deployments answer to it, `status` how far they are, and `answers` whether a
    request is answered now. One that rests answers too: the request wakes it.
    """
    wanted: dict[str, Any] = {name: text for name in MEMBERS if (text := request.args.get(name)) is not None}
    wanted |= {name: value == "true" for name in FLAGS if (value := body.one_of(name, ("true", "false"))) is not None}
    names, every = Names(services(), project_id()), services().store.models.list(project_id())
    entries = [_entry(named) for named in (*names.of_models(every), *names.others(every))]
    chosen = [entry for entry in entries if all(entry[name] == value for name, value in wanted.items())]
    if (tag := request.args.get("tag")) is not None:
        chosen = [entry for entry in chosen if tag in entry["tags"]]
    return jsonify({"object": "list", "data": chosen})


@blueprint.route("/<path:name>", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Model"))
def retrieve(name: str) -> Response:
    """Look at a model: where it comes from, what came of it, where it was pushed to, and what was measured of it

    By its name, or as a version of its family: `name@3`, `name@latest`, `name@<alias>`. Other names that requests may
    ask (deployments, routes, `base@adapter`) tell the same of the model that answers to them, where it is one.
    """
    named = _named(name)
    model = named.model
    told: dict[str, Any] = {
        "lineage": lineage.lineage(services(), model) if model else [],
        "derived": lineage.derived(services(), model) if model else [],
        "pushes": pushing.of_model(services(), model) if model else [],
        "evaluations": evaluations.of_model(model) if model else [],
    }
    return jsonify(_entry(named) | told | {"config": model.config if model else {}})


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
    return jsonify(_of_catalog(services().store.models.update(project_id(), model.name, **changes)))


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
    storage_id = None if catalog.is_on_hub(model.uri) else services().artifacts.storage_id()
    services().store.models.delete(project_id(), model.name, storage_id)
    if storage_id is not None:
        # What is left when this fails, a worker deletes later.
        services().artifacts.delete(model.uri)
        services().store.discarded.forget(model.uri)
    return jsonify({"id": name, "object": "model", "deleted": True})


def _of_catalog(model: Model) -> dict[str, Any]:
    return _entry(next(Names(services(), project_id()).of_models([model])))


def _named(name: str) -> Named:
    names = Names(services(), project_id())
    try:
        return next(names.of_models([find(name)]))
    except ModelNotFound:
        if (other := names.other(name)) is None:
            raise
        return other


def _entry(named: Named) -> dict[str, Any]:
    if named.in_catalog and named.model is not None:
        return model_json(named.model) | named_json(named)
    own = {"id": named.name, "created": int(named.created_at.timestamp()), "kind": named.kind}
    own |= {"object": "model", "owned_by": "tunesmith", "family": None, "aliases": [], "tags": [], "metadata": {}}
    behind = model_json(named.model) if named.model else {"root": None}
    return NO_MODEL | behind | own | named_json(named)


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
