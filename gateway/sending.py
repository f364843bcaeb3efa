"""How a file goes out: piece by piece as the client reads, whole or a range of it, and never again when it is known.

The digest is the entity tag, so a download that broke is taken up where it broke (Range with If-Range), also from
another gateway. Nothing is held in memory but one piece.
"""

from __future__ import annotations

import base64
from typing import IO, cast
from urllib.parse import quote

from flask import Response, request
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.http import parse_range_header
from werkzeug.wsgi import FileWrapper

from gateway.archive import Archive
from shared.errors import InvalidRequest

OCTETS = "application/octet-stream"
#: 8 KiB pieces, werkzeug's own, reach a tenth of the speed.
PIECE_BYTES = 1024**2


class RangeNotSatisfiable(InvalidRequest):
    """The range lies outside of the file."""

    status, code = 416, "range_not_satisfiable"


def send(
    opened: IO[bytes] | Archive,
    *,
    size_bytes: int,
    tag: str,
    filename: str | None = None,
    sha256: str | None = None,
    media_type: str = OCTETS,
) -> Response:
    """`opened` is read from where the range begins, and closed. Raises RangeNotSatisfiable"""
    # Passed through: werkzeug must not look at an iterable that it shall not touch.
    answer = Response(FileWrapper(cast(IO[bytes], opened), PIECE_BYTES), mimetype=media_type, direct_passthrough=True)
    answer.content_length = size_bytes
    answer.set_etag(tag)
    # Attachment: a drawing must not run scripts in a browser under our address.
    answer.headers.set("Content-Disposition", "attachment", **_named(filename))
    if sha256 is not None:  # RFC 9530: of the whole file, also beside a range of it
        answer.headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
    try:
        answer.make_conditional(_asked(), accept_ranges=True, complete_length=size_bytes)
    except RequestedRangeNotSatisfiable as error:
        opened.close()
        text = "Range is {given!r}: must begin before byte {size}, the file's end"
        given = request.headers.get("Range", "")[:100]
        raise RangeNotSatisfiable(text, field="Range", given=given, size=size_bytes) from error
    return answer


def _named(filename: str | None) -> dict[str, str]:
    """RFC 6266: headers are ASCII, so another name is said encoded, beside one for clients that cannot read that."""
    if not filename or filename.isascii():
        return {"filename": filename} if filename else {}
    plain = filename.encode("ascii", "replace").decode().replace("?", "_")
    return {"filename": plain, "filename*": f"UTF-8''{quote(filename, safe='')}"}


def _asked() -> dict[str, object]:
    """The request, without what may be passed over (RFC 9110, 14.2): several ranges at once, units other than bytes."""
    ranges = parse_range_header(request.headers.get("Range"))
    is_one = ranges is not None and ranges.units == "bytes" and len(ranges.ranges) == 1
    return {name: value for name, value in request.environ.items() if name != "HTTP_RANGE" or is_one}
