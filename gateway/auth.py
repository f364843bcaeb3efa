"""Who asks: the API key of each request, its project and its role. Everything that is not PUBLIC needs a key.

`Authorization: Bearer <key>` as the `openai` client sends it, or HTTP Basic with the key as the password, so that a
browser can open /metrics. What a key may do: viewer reads, user also writes, admin also removes base models.
"""

from __future__ import annotations

from typing import cast

from flask import Flask, Request, g, request

from gateway.services import services
from shared.errors import NotAllowed, NotAuthenticated
from shared.records import ApiKey

#: Endpoints without data of anybody: probes, the page and its files, the description of the API.
PUBLIC = frozenset(
    {
        "health.healthz",
        "health.readyz",
        "console.index",
        "console.static",
        "runbook.page",
        "swagger.static",
        "api-docs.openapi_json",
        "api-docs.openapi_swagger_ui",
    }
)
#: Endpoints that a model answers: each millisecond of theirs is before the first token.
ANSWERED = frozenset({"inference.chat", "inference.complete", "inference.respond"})
#: What is read while the ledger is away, too.
METRICS = "health.metrics"
READING = frozenset({"GET", "HEAD", "OPTIONS"})


def install(app: Flask) -> None:
    app.before_request(authenticate)


def authenticate() -> None:
    # A route that does not exist has no data either: it answers 404.
    if request.endpoint is None or request.endpoint in PUBLIC:
        return
    secret = _secret(request)
    key = _key(secret, request.endpoint) if secret else None
    if key is None:
        raise NotAuthenticated()
    if key.role == "viewer" and request.method not in READING:
        raise NotAllowed(
            "The role of this key is viewer: it may not {method} {path}", method=request.method, path=request.path
        )
    g.key = key


def _key(secret: str, endpoint: str) -> ApiKey | None:
    if endpoint != METRICS:
        return (services().keyring if endpoint in ANSWERED else services().store.keys).authenticate(secret)
    scraper = services().scrapers.authenticate(secret)
    g.operates = scraper is not None and scraper.operates
    return scraper.key if scraper is not None else None


def current_key() -> ApiKey:
    return cast(ApiKey, g.key)


def operates() -> bool:
    """Whether the key that reads the metrics is of whoever operates the platform."""
    return bool(g.operates)


def project_id() -> str:
    return current_key().project_id


def require_admin(what: str) -> None:
    if current_key().role != "admin":
        raise NotAllowed("The role of this key is {role}: only admin may {what}", role=current_key().role, what=what)


def _secret(request: Request) -> str | None:
    try:
        given = request.authorization
    except ValueError:  # werkzeug's own, of Basic credentials that are not ASCII
        return None
    if given is None:
        return None
    return given.token if given.type == "bearer" else given.password
