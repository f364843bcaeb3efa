"""The files of a model: their list with digests, one of them, or all as one archive. Also those of a checkpoint.

A file that is being downloaded may be deleted: on a local storage the download goes on to its end.
"""

from __future__ import annotations

import difflib
import re

from flask import Response, jsonify
from flask_smorest import Blueprint

from gateway import openapi, sending
from gateway.archive import Archive
from gateway.auth import project_id
from gateway.jobs import list_json
from gateway.servednames import Names
from gateway.services import services
from shared import catalog
from shared.artifact import Sealed
from shared.errors import ModelNotFound, NotFound
from shared.nearest import did_you_mean
from shared.records import Model
from shared.tongues import Text

blueprint = Blueprint("downloads", __name__, url_prefix="/v1/models", description="Files of models")

#: Files named in the answer to one that is not there.
MAX_NEAR = 3


@blueprint.route("/<path:name>/files", methods=["GET"])
@blueprint.doc(responses=openapi.ok("ModelFileList"))
def files(name: str) -> Response:
    """List the files of a model, each with its size and SHA-256"""
    sealed = _sealed(find(name))
    data = [{"id": file.path, "object": "model.file", **vars(file)} for file in sealed.files]
    return jsonify(list_json(data, False))


@blueprint.route("/<path:name>/files/<path:path>", methods=["GET"])
@blueprint.doc(responses=openapi.download("The file; its SHA-256 is its ETag and its Repr-Digest.", sending.OCTETS))
def file(name: str, path: str) -> Response:
    """Download one file of a model

    As a stream. Ranges are answered: one that broke goes on with `Range: bytes=<got>-` and `If-Range: <ETag>`.
    """
    sealed = _sealed(find(name))
    found = next((file for file in sealed.files if file.path == path), None)
    if found is None:
        near = difflib.get_close_matches(path[:200], [file.path for file in sealed.files], n=MAX_NEAR, cutoff=0.4)
        there = Text("; there is {names}", names=", ".join(repr(file) for file in near)) if near else ""
        text = "Model {name!r} has no file {path!r}{near}"
        raise NotFound(text, field="path", name=name, path=path[:200], near=there)
    return sending.send(
        services().artifacts.open(f"{sealed.uri}/{found.path}"),
        size_bytes=found.size_bytes,
        tag=found.sha256,
        sha256=found.sha256,
        filename=found.path.rpartition("/")[2],
    )


@blueprint.route("/<path:name>/archive", methods=["GET"])
@blueprint.doc(responses=openapi.download("A tar with all files in one folder.", "application/x-tar"))
def archive(name: str) -> Response:
    """Download a model as one tar

    The same bytes every time, and ranges are answered, so it is taken up again as a single file is.
    """
    model = find(name)
    sealed, folder = _sealed(model), _folder_name(model)
    packed = Archive(services().artifacts, sealed, folder)
    tag = f"{sealed.digest.partition(':')[2]}.tar"
    return sending.send(
        packed, size_bytes=packed.size_bytes, tag=tag, filename=f"{folder}.tar", media_type="application/x-tar"
    )


def find(name: str) -> Model:
    """Raises ModelNotFound with the nearest names."""
    try:
        return services().store.models.get(project_id(), name)
    except NotFound as error:
        if (other := Names(services(), project_id()).other(name)) is not None:
            text = "{name!r} is a {kind} and no model of the catalog: see /v1/{kind}s/{name}"
            raise ModelNotFound(text, field="model", name=other.name, kind=other.kind) from error
        known = [model.name for model in services().store.models.list(project_id())]
        text = "There is no model {name!r} in this project{near}"
        raise ModelNotFound(text, field="model", name=name[:200], near=did_you_mean(name, known)) from error


def _sealed(model: Model) -> Sealed:
    if catalog.is_on_hub(model.uri):
        hub_id = model.uri.removeprefix(catalog.HUB)
        text = "The files of model {name!r} are on the Hub, as {hub_id!r}: download them there"
        raise NotFound(text, field="model", name=model.name, hub_id=hub_id)
    return services().artifacts.sealed(model.uri)


def _folder_name(model: Model) -> str:
    """The last part of its name, as any file system takes it."""
    return re.sub(r"[^\w.@+-]+", "-", model.name.rpartition("/")[2]).strip("-.") or model.id
