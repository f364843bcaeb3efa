"""What was measured, of one model or of several on the same dataset: newest first, a row for each."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request
from flask_smorest import Blueprint

from gateway import body, differences, openapi
from gateway.auth import project_id
from gateway.jobs import list_json
from gateway.services import services
from shared.records import Evaluation, Model

blueprint = Blueprint("evaluations", __name__, url_prefix="/v1/evaluations", description="What models were measured at")

#: Results that a model's own page shows.
LATEST = 100
FILTERS: list[dict[str, Any]] = [
    {"in": "query", "name": "model", "schema": {"type": "string"}, "description": "Name of the model."},
    {"in": "query", "name": "dataset", "schema": {"type": "string"}, "description": "Name or id of the dataset."},
    {"in": "query", "name": "task", "schema": {"type": "string"}, "description": "Task of lm-evaluation-harness."},
]
LESS: dict[str, Any] = {
    "in": "query", "name": "less", "required": True, "schema": {"type": "string"}, "description": "The other one's id.",
}  # fmt: skip


@blueprint.route("", methods=["GET"])
@blueprint.doc(parameters=[*FILTERS, *openapi.PAGE], responses=openapi.ok("EvaluationList"))
def list_evaluations() -> Response:
    """List results: with `dataset` or `task` those that compare; those with another dataset_digest read other rows"""
    page = services().store.evaluations.list(
        project_id(),
        **{name: request.args.get(name) for name in ("model", "dataset", "task", "after")},
        limit=body.whole_number("limit", 20, minimum=1, maximum=100),
        order=str(body.one_of("order", ("asc", "desc"), "desc")),
    )
    return jsonify(list_json([evaluation_json(found) for found in page.items], page.has_more))


@blueprint.route("/<evaluation_id>", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Evaluation"))
def retrieve(evaluation_id: str) -> Response:
    """Look at one result"""
    return jsonify(evaluation_json(services().store.evaluations.get(project_id(), evaluation_id)))


@blueprint.route("/<evaluation_id>/difference", methods=["GET"])
@blueprint.doc(parameters=[LESS], responses=openapi.ok("Evaluation"))
def difference(evaluation_id: str) -> Response:
    """How much it differs from another one (`less`) on the same rows: sample by sample, with the difference's error"""
    store, other = services().store.evaluations, request.args.get("less") or ""
    first, second = store.get(project_id(), evaluation_id), store.get(project_id(), other)
    metrics = differences.difference(services(), project_id(), first, second)
    told = {"model": first.model_name, "less": second.id, "less_model": second.model_name, "dataset": first.dataset}
    return jsonify({"id": first.id, "object": "evaluation.difference", **told, "metrics": metrics})


def of_model(model: Model) -> list[dict[str, Any]]:
    """Of this very record: an earlier model of its name had other weights."""
    page = services().store.evaluations.list(project_id(), model_id=model.id, limit=LATEST)
    return [evaluation_json(found) for found in page.items]


def evaluation_json(found: Evaluation) -> dict[str, Any]:
    return {
        "id": found.id,
        "object": "evaluation",
        "model": found.model_name,
        "dataset": found.dataset,
        "dataset_id": found.dataset_id,
        "dataset_digest": found.dataset_digest,
        "task": found.task,
        "num_samples": found.num_samples,
        "metrics": found.metrics,
        "spec": found.spec,
        "job_id": found.job_id,
        "created_at": found.created_at.isoformat(),
    }
