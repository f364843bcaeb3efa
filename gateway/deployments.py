"""Deployments: which models are served, and how it goes with each. Starting vLLM is the inference worker's."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify
from flask_smorest import Blueprint

from gateway import adapters, body, labels, openapi, waiting
from gateway.admission import kept, missing
from gateway.auth import project_id
from gateway.fitness import unfit
from gateway.jobs import list_json
from gateway.services import services
from shared import rollout, schema
from shared.adapterfiles import AdapterFiles
from shared.errors import Complaint, Conflict, NotFound
from shared.records import Deployment, Replica
from shared.spec import DeploySpec
from shared.tongues import Text, chinese

blueprint = Blueprint("deployments", __name__, url_prefix="/v1/deployments", description="Models that are served")


@blueprint.route("", methods=["POST"])
@blueprint.doc(requestBody=openapi.body_of("DeploySpec", yaml=True), responses=openapi.created("Deployment"))
def create() -> Response:
    """Serve a model: replicas of vLLM are started and kept running

    The body is JSON or YAML, as LLaMA Factory's files for inference are. The same request again answers with the
    deployment that is there. An adapter is loaded onto the replicas of a deployment of its base where one fits: then
    `host` names it and the adapter answers within seconds, else `placement` says why it gets replicas of its own.
    """
    given = schema.load(DeploySpec, body.spec_object())
    spec, wire = admitted(given)
    files = adapters.files_of(services(), project_id(), spec.served)
    deployment, created = _create(spec.name or given.served, spec.served, wire, files)
    answer = jsonify(deployment_json(deployment))
    answer.status_code = 201 if created else 200
    return answer


@blueprint.route("", methods=["GET"])
@blueprint.doc(responses=openapi.ok("DeploymentList"))
def list_deployments() -> Response:
    """List deployments that run or are stopping"""
    found = services().store.deployments.list(project_id())
    return jsonify(list_json([deployment_json(deployment) for deployment in found], False))


@blueprint.route("/<path:name>", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Deployment"))
def retrieve(name: str) -> Response:
    """Look at a deployment, by id or name"""
    return jsonify(deployment_json(services().store.deployments.get(project_id(), name)))


@blueprint.route("/<path:name>", methods=["DELETE"])
@blueprint.doc(responses=openapi.ok("Deployment"))
def delete(name: str) -> Response:
    """Stop serving"""
    return jsonify(deployment_json(services().store.deployments.delete(project_id(), name)))


def admitted(given: DeploySpec) -> tuple[DeploySpec, dict[str, Any]]:
    """The spec with names of the catalog, and as it is stored. Raises InvalidSpec with what cannot be served."""
    spec = labels.settled(services(), project_id(), given)
    wire = kept(services(), project_id(), spec)
    complaints = [*missing(services(), project_id(), spec), *_unregistered(spec)][:1]
    complaints = complaints or list(unfit(services(), project_id(), spec, wire))
    if complaints:
        raise schema.refusal(complaints)
    return spec, wire


def _create(name: str, model: str, spec: dict[str, Any], files: AdapterFiles | None) -> tuple[Deployment, bool]:
    deployments = services().store.deployments
    try:
        return deployments.create(project_id(), name=name, model_name=model, spec=spec, files=files), True
    except Conflict:
        there = [found for found in services().store.deployments.list(project_id()) if found.name == name]
        if not there or there[0].spec != spec:
            raise
        return there[0], False


def _unregistered(spec: DeploySpec) -> list[Complaint]:
    """Only what is in the catalog is served: its files are sealed, and its name is unique."""
    try:
        services().store.models.get(project_id(), spec.served)
    except NotFound:
        field = "model" if spec.served == spec.model else "adapter_name_or_path"
        text = "is {name!r}: only models of the catalog are served; register it with POST /v1/models"
        message = Text(text, name=spec.served)
        return [Complaint(field=field, message=message, code="model_not_found")]
    return []


def deployment_json(deployment: Deployment) -> dict[str, Any]:
    replicas = [replica for replica in deployment.replicas if replica.status != "stopped"]
    waits = waiting.reason(services(), deployment)
    return {
        "id": deployment.id,
        "object": "deployment",
        "name": deployment.name,
        "model": deployment.model_name,
        "status": deployment.status,
        "error": deployment.error,
        "host": deployment.host_name,
        "placement": deployment.hosting.get("why"),
        "replicas": [replica_json(replica) for replica in replicas],
        "waiting": waits,
        "waiting_zh": waits and chinese.sentence(waits),
        "spec": deployment.spec,
        "generation": deployment.generation,
        "rollout": _rollout_json(deployment),
        "num_wanted": rollout.target(deployment),
        "asked_at": deployment.asked_at.isoformat() if deployment.asked_at else None,
        "created_at": deployment.created_at.isoformat(),
    }


def replica_json(replica: Replica) -> dict[str, Any]:
    """Without address and key: clients reach a replica through the gateway only."""
    return {
        "id": replica.id,
        "status": replica.status,
        "worker_id": replica.worker_id,
        "generation": replica.generation,
        "model": replica.model_name,
        "load": replica.load,
        "ready_at": replica.ready_at.isoformat() if replica.ready_at else None,
        "adapters": replica.adapters,
        "adapter_errors": replica.adapter_errors,
        "error": replica.error,
        "log_tail": replica.log_tail,
        "num_failures": replica.num_failures,
    }


def _rollout_json(deployment: Deployment) -> dict[str, Any] | None:
    """Without the spec of before, which is in `changed`."""
    told = deployment.rollout
    return told and {name: value for name, value in told.items() if name != "before"}
