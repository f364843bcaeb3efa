"""A model's files as an upload: parts of a multipart body, each with its path, become a folder of the server's own.

The parts were written to the disk while they came (gateway/http.py); here they only get their names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import request

from gateway.registering import refusal
from gateway.services import services
from shared.artifact import is_plain
from shared.errors import Complaint
from shared.ids import new_id
from shared.tongues import Text

#: The field of the files.
FILES = "files"
#: Of one upload.
MAX_FILES = 512


@contextmanager
def folder() -> Iterator[Path]:
    """The uploaded files of this request, as long as they are needed. Raises InvalidSpec"""
    place = services().settings.run_dir / "uploads" / new_id("model-")
    try:
        _arrange(place)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _arrange(place: Path) -> None:
    if other := next((name for name in request.files if name != FILES), None):
        text = "is missing: send each file as a part {files!r}, not {other!r}"
        raise _refused(Text(text, files=FILES, other=other[:40]))
    parts = request.files.getlist(FILES)
    if not 0 < len(parts) <= MAX_FILES:
        raise _refused(Text("has {count} entries: must be 1 to {most}", count=len(parts), most=MAX_FILES))
    place.mkdir(parents=True)
    for part in parts:
        name = part.filename or ""
        if not is_plain(name) or (place / name).exists():
            raise _refused(Text("has {name!r}: must be a relative path of plain names, each once", name=name[:200]))
        part.stream.flush()
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(str(part.stream.name), place / name)


def _refused(message: Text) -> Exception:
    return refusal(Complaint(field=FILES, message=message))
