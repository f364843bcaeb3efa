"""Reading what clients send: strict JSON or YAML bodies, and query parameters with their ranges."""

from __future__ import annotations

from typing import Any

from flask import request

from shared import strict_json
from shared.errors import Complaint, InvalidRequest, InvalidSpec, TooLarge
from shared.request import parse_yaml
from shared.tongues import Text

#: Longest number of a query, digits: 64 bits have 19.
MAX_DIGITS = 19
YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})


class UnsupportedMediaType(InvalidRequest):
    """The content type is not one that this route reads."""

    status, code = 415, "unsupported_media_type"


def json_object() -> dict[str, Any]:
    """The JSON object of the body. A missing content type is taken as JSON."""
    if request.mimetype and request.mimetype != "application/json":
        raise UnsupportedMediaType(f"Content-Type is {request.mimetype!r}: send application/json", field="Content-Type")
    return _object(strict_json.loads(_text()))


def spec_object() -> dict[str, Any]:
    """The object of a JSON or YAML body: an LF YAML posts as it is."""
    if request.mimetype in YAML_TYPES:
        return _object(parse_yaml(_text()))
    if request.mimetype and request.mimetype != "application/json":
        allowed = "application/json or application/yaml"
        raise UnsupportedMediaType(f"Content-Type is {request.mimetype!r}: send {allowed}", field="Content-Type")
    return _object(strict_json.loads(_text()))


def multipart() -> None:
    """Refuse an upload that is none, before its fields are looked for."""
    if request.mimetype != "multipart/form-data":
        given = request.mimetype or "missing"
        raise UnsupportedMediaType(f"Content-Type is {given!r}: send multipart/form-data", field="Content-Type")


def _text() -> str:
    packed = request.headers.get("Content-Encoding", "identity")
    if packed.strip().lower() not in ("", "identity"):
        message = f"Content-Encoding is {packed[:40]!r}: send the body as it is"
        raise UnsupportedMediaType(message, field="Content-Encoding")
    data = request.get_data()
    # A body of unknown length (chunked) is cut off at the limit without a word: half a YAML would pass for a whole one.
    if request.content_length is None and len(data) >= (request.max_content_length or 0):
        raise TooLarge(
            "The body is larger than {most} bytes",
            field="body",
            most=request.max_content_length,
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest("The body is not UTF-8: byte {at}", field="body", at=error.start + 1) from error


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be an object of names and values", field="body")
    return value


def whole_number(name: str, default: int, *, minimum: int = 0, maximum: int = 10_000) -> int:
    """A query parameter. Raises InvalidSpec outside of its range."""
    text = request.args.get(name)
    if text is None:
        return default
    is_number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    if not is_number or not minimum <= int(text) <= maximum:
        template = "is {value!r}: must be a whole number from {low} to {high}"
        message = Text(template, value=text[:40], low=minimum, high=maximum)
        raise InvalidSpec(f"{name} {message}", complaints=[Complaint(field=name, message=message)])
    return int(text)


def one_of(name: str, choices: tuple[str, ...], default: str | None = None) -> str | None:
    """A query parameter with a closed choice."""
    value = request.args.get(name, default)
    if value is not None and value not in choices:
        message = Text("is {value!r}: must be one of {allowed}", value=value[:40], allowed=", ".join(choices))
        raise InvalidSpec(f"{name} {message}", complaints=[Complaint(field=name, message=message)])
    return value


def metadata() -> dict[str, str]:
    """`metadata[key]=value` of the query, as the openai client writes it."""
    pairs = ((name, value) for name, value in request.args.items() if name.startswith("metadata[") and name[-1] == "]")
    found = {name[len("metadata[") : -1]: value for name, value in pairs}
    if any("\0" in name + value for name, value in found.items()):
        message = "holds a NUL character: not allowed"
        raise InvalidSpec(f"metadata {message}", complaints=[Complaint(field="metadata", message=message)])
    return found
