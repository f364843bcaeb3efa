"""What every answer has in common: the request id, the error envelope, the access log and the request metrics.

One body serves both worlds: RFC 9457 members at the top and OpenAI's `error` object, which the `openai` client reads.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import tempfile
import time
from http import HTTPStatus
from typing import IO, Any, cast

from flask import Flask, Request, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from gateway import unserved
from gateway.services import services
from shared import correlation
from shared.correlation import Origin
from shared.errors import Conflict, InvalidRequest, NotAuthenticated, NotFound, TooLarge, TunesmithError, Unavailable
from shared.ids import new_id
from shared.lease import LEDGER_AWAY
from shared.metrics.counted import Metrics
from shared.tracing import NoSpan, Span, Tracer

log = logging.getLogger(__name__)

#: Longest request id that is taken over from a client, characters.
MAX_REQUEST_ID_CHARS = 128
#: What of a refused body is still read, so that the connection can go on; of more the server closes it.
MAX_DRAIN_BYTES = 16 * 1024**2
#: The disk, a quota or a limit of the process is used up.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Of statuses that no standard has: the client was gone before its answer (nginx' number).
TITLES = {499: "Client Closed Request"}
#: Seconds after which something that is starting may be asked for again.
RETRY_AFTER_SECONDS = 2


class MethodNotAllowed(InvalidRequest):
    """The route does not take this method."""

    status, code = 405, "method_not_allowed"


class NoRoom(TunesmithError):
    """The server's disk is full: nothing was kept. Tell the administrator, or delete what is no longer needed."""

    status, code = 507, "insufficient_storage"


class UploadRequest(Request):
    """A request whose files are written once, on the disk of run_dir: /tmp may be small, or memory."""

    def _get_file_stream(self, *args: Any, **kwargs: Any) -> IO[bytes]:
        folder = services().settings.run_dir / "uploads"
        folder.mkdir(parents=True, exist_ok=True)
        # Removed when it is closed, which Flask does at the end of the request.
        return cast(IO[bytes], tempfile.NamedTemporaryFile(dir=folder, prefix="upload-"))


def install(app: Flask) -> None:
    app.request_class = UploadRequest
    # Names of models may have two slashes in a row, and a redirect would lose the body of a POST.
    app.url_map.merge_slashes = False
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(_leave)


def install_handlers(app: Flask) -> None:
    app.register_error_handler(TunesmithError, handle_own)
    app.register_error_handler(HTTPException, handle_http)
    app.register_error_handler(Exception, handle_unexpected)


def handle_own(error: TunesmithError) -> Response:
    if error.status >= 500:
        log.error("%s", error.message, exc_info=not isinstance(error, Unavailable), extra={"request_id": request_id()})
    return problem(error.status, error.as_dict(), retry_after=error.retry_after_seconds)


def handle_http(error: HTTPException) -> Response:
    """Werkzeug's own refusals (no such route, wrong method, body too large) in our envelope."""
    status = error.code or 500
    if status == NotFound.status:
        return problem(status, unserved.refusal(request.path).as_dict())
    kinds = {405: MethodNotAllowed, 413: TooLarge}
    kind: type[TunesmithError] = kinds.get(status, InvalidRequest)
    message = {
        405: f"{request.method} is not allowed for {request.path}: use {', '.join(_allowed(error))}",
        413: f"The body is larger than {request.max_content_length} bytes, the most that this route reads",
    }.get(status, error.description or HTTPStatus(status).phrase)
    answer = problem(status, kind(message, field="body" if status == 413 else None).as_dict())
    if status == 405:
        answer.headers["Allow"] = ", ".join(_allowed(error))
    return answer


def handle_unexpected(error: Exception) -> Response:
    if isinstance(error, LEDGER_AWAY):
        return handle_own(Unavailable("The ledger does not answer ({error}): try again", error=type(error).__name__))
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        log.error("No room on the disk: %s", error, extra={"request_id": request_id()})
        return problem(NoRoom.status, NoRoom().as_dict())
    log.exception("Unexpected error", extra={"request_id": request_id()})
    return problem(500, TunesmithError(f"Unexpected error; the log has it under {request_id()}").as_dict())


def problem(status: int, error: dict[str, Any], *, retry_after: int | None = None) -> Response:
    body = {
        "type": f"urn:tunesmith:error:{error['code']}",
        "title": TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "detail": error["message"],
        "instance": request_id(),
        "error": error,
    }
    answer = jsonify(_whole(body))
    answer.status_code = status
    answer.content_type = "application/problem+json"
    if status == NotAuthenticated.status:
        # Basic only for browsers: they then ask for the key.
        answer.headers["WWW-Authenticate"] = 'Basic realm="Tunesmith"' if _is_browser() else "Bearer"
    if status in (Conflict.status, NoRoom.status, HTTPStatus.GATEWAY_TIMEOUT):
        # The openai client would send it twice more, and it cannot succeed.
        answer.headers["x-should-retry"] = "false"
    if status == Unavailable.status or retry_after is not None:
        answer.headers["Retry-After"] = str(retry_after or RETRY_AFTER_SECONDS)
    return answer


def request_id() -> str:
    return str(g.get("request_id", ""))


def span() -> Span:
    """Of this request."""
    return cast(Span, g.get("span") or NoSpan())


def origin() -> Origin:
    """What is kept with a record that this request makes."""
    return Origin(request_id=request_id(), traceparent=span().traceparent)


def _begin() -> None:
    # Each look through Flask's proxies takes a microsecond or two, before the first token.
    asked, about, used = request._get_current_object(), g._get_current_object(), services()  # type: ignore[attr-defined]
    about.request_id = named(asked.headers.get("X-Request-Id", ""))
    route = asked.url_rule.rule if asked.url_rule else ""
    about.span = span_of(
        used.tracer, asked.method, route, asked.path, asked.headers.get("traceparent", ""), about.request_id
    )
    correlation.clear()
    correlation.bind(**Origin(request_id=about.request_id, traceparent=about.span.traceparent).ids())
    about.started_at = time.monotonic()
    used.metrics.http_requests_in_progress.inc()
    uploads = asked.mimetype == "multipart/form-data"
    asked.max_content_length = used.settings.max_upload_bytes if uploads else used.settings.max_body_bytes


def named(given: str) -> str:
    """The id of a request whose client gave it this one."""
    usable = given.isascii() and given.isprintable() and 0 < len(given) <= MAX_REQUEST_ID_CHARS
    return given if usable else new_id("req_")


def span_of(tracer: Tracer, method: str, route: str, path: str, given: str, request_id: str) -> Span:
    """Below that of whoever asks, where there is one. `given`: the request's traceparent."""
    parent = given if correlation.trace_id(given) else ""
    if not route.startswith("/v1"):  # probes, scrapes, the page
        return NoSpan(parent)
    told: dict[str, Any] = {"http__request__method": method, "http__route": route, "url__path": path}
    return tracer.start(f"{method} {route}", parent, kind="server", request_id=request_id, **told)


def _whole(value: Any) -> Any:
    """Half a surrogate pair, repeated from what was sent, is no text: many JSON readers stop at it."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


def _drain() -> None:
    """Read what is left of a refused body: else the server closes the connection under the client's next request."""
    if "Expect" in request.headers or request.method in ("GET", "HEAD"):
        return
    if not request.environ.get("wsgi.input_terminated"):
        return  # a server (not gunicorn) whose stream does not end with the body: reading on would wait for ever
    left = MAX_DRAIN_BYTES
    with contextlib.suppress(OSError):
        while left > 0 and (piece := request.environ["wsgi.input"].read(min(left, 1 << 16))):
            left -= len(piece)


def _end(answer: Response) -> Response:
    if answer.status_code >= 400:
        _drain()
    asked, id, metrics = request._get_current_object(), request_id(), services().metrics  # type: ignore[attr-defined]
    answer.headers["x-request-id"] = id
    answer.headers.setdefault("X-Content-Type-Options", "nosniff")
    route = asked.url_rule.rule if asked.url_rule else "unknown"
    seconds = time.monotonic() - g.get("started_at", time.monotonic())
    _end_span(answer)
    ids = {name: value for name, value in (asked.view_args or {}).items() if name.endswith("_id")}
    note(metrics, asked.method, route, asked.path, answer.status_code, seconds, request_id=id, **ids)
    return answer


def note(metrics: Metrics, method: str, route: str, path: str, status: int, seconds: float, **ids: Any) -> None:
    """An answer whose head has gone, `seconds` after its request came: counted, and a line of the log."""
    metrics.labelled(metrics.http_requests, method, route, str(status)).inc()
    metrics.labelled(metrics.http_request_duration, method, route).observe(seconds)
    quiet = route in ("/healthz", "/readyz", "/metrics")
    extra = {"status": status, "seconds": round(seconds, 4), **ids}
    log.log(logging.DEBUG if quiet else logging.INFO, "%s %s", method, path, extra=extra)


def _leave(_: BaseException | None) -> None:
    if "started_at" in g:
        services().metrics.http_requests_in_progress.dec()
    correlation.clear()


def _end_span(answer: Response) -> None:
    """With the head of the answer: what streams afterwards has spans of its own."""
    key = g.get("key")
    span().tell(http__response__status_code=answer.status_code, project_id=key.project_id if key else None)
    span().end(error=f"status {answer.status_code}" if answer.status_code >= 500 else "")


def _allowed(error: HTTPException) -> list[str]:
    methods = getattr(error, "valid_methods", None) or []
    return sorted(method for method in methods if method not in ("HEAD", "OPTIONS"))


def _is_browser() -> bool:
    return "text/html" in request.headers.get("Accept", "")
