"""Probes and metrics. /healthz says that the process lives, /readyz what is missing, /metrics what happened."""

from __future__ import annotations

from flask import Response, jsonify, request
from flask_smorest import Blueprint
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway import auth, openapi
from gateway.readiness import Checks
from gateway.services import services
from shared.metrics.counted import Shared

blueprint = Blueprint("health", __name__, description="Probes and metrics")


@blueprint.route("/healthz", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Health"), security=[])
def healthz() -> Response:
    """Whether the gateway lives"""
    return jsonify({"status": "ok"})


@blueprint.route("/readyz", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Health"), security=[])
def readyz() -> Response:
    """Whether this gateway can do its work, and what is missing

    503 while it cannot: `missing` says what and what to do. `warnings` are about what jobs wait for (broker, beat,
    workers of a kind), or what will soon be missing.
    """
    found = Checks(services()).look(request.environ)
    answer = jsonify(found.as_dict())
    answer.status_code = 200 if found.is_ready else 503
    return answer


@blueprint.route("/metrics", methods=["GET"])
@blueprint.doc(responses=openapi.plain("Metrics.", "text/plain"))
def metrics() -> Response:
    """Metrics in Prometheus' text format; those with the name of a model only to keys of the first project

    Its keys are those of whoever operates the platform. While the ledger is away, `tunesmith_ledger_up` is 0 and all
    that was counted is told, to keys that read here within the last hour.
    """
    registry = services().metrics.registry
    text = generate_latest(registry if auth.operates() else Shared(registry))
    return Response(text, content_type=CONTENT_TYPE_LATEST)
