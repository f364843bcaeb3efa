"""Probes and metrics. /healthz says that the process lives, /readyz what is missing, /metrics what happened."""

from __future__ import annotations

import logging

from flask import Response, jsonify
from flask_smorest import Blueprint
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway import openapi
from gateway.auth import project_id
from gateway.services import services
from shared.telemetry import Shared

log = logging.getLogger(__name__)

blueprint = Blueprint("health", __name__, description="Probes and metrics")


@blueprint.route("/healthz", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Health"), security=[])
def healthz() -> Response:
    """Whether the gateway lives"""
    return jsonify({"status": "ok"})


@blueprint.route("/readyz", methods=["GET"])
@blueprint.doc(responses=openapi.ok("Health"), security=[])
def readyz() -> Response:
    """Whether ledger and artifacts answer; the broker's absence only delays jobs and is told, not failed"""
    missing = {name: why for name, check in _CHECKS.items() if (why := check())}
    broker = services().queue.depth("housekeeping") is not None
    answer = jsonify({"status": "unready" if missing else "ready", "missing": missing, "broker": broker})
    answer.status_code = 503 if missing else 200
    return answer


@blueprint.route("/metrics", methods=["GET"])
@blueprint.doc(responses=openapi.plain("Metrics.", "text/plain"))
def metrics() -> Response:
    """Metrics in Prometheus' text format; those with the name of a model only to keys of the first project

    Its keys are those of whoever operates the platform.
    """
    registry = services().metrics.registry
    operates = project_id() == services().store.projects.default().id
    text = generate_latest(registry if operates else Shared(registry))
    return Response(text, content_type=CONTENT_TYPE_LATEST)


def _ledger() -> str | None:
    try:
        services().store.jobs.counts()
    except Exception as error:  # a probe: whatever is wrong, the answer is that it is not ready
        log.warning("The ledger does not answer: %s", error)
        return f"the ledger does not answer ({type(error).__name__}); was `tunesmith migrate` run?"
    return None


def _artifacts() -> str | None:
    try:
        services().artifacts.storage_id()
    except Exception as error:  # as above
        log.warning("The artifact store does not answer: %s", error)
        return f"the artifact store does not answer ({type(error).__name__})"
    return None


_CHECKS = {"ledger": _ledger, "artifacts": _artifacts}
