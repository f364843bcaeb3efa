"""Downloads the files of a model: each into its place when its SHA-256 is the server's, and taken up where it broke."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.cli.client import Client
from shared.errors import TunesmithError

#: Beside a file that is not whole yet.
PART = ".part"


class Damaged(TunesmithError):
    """What came is not what was sealed."""


def address(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}"


def fetch(client: Client, model: str, folder: Path, tell: Callable[[str, int], None]) -> list[dict[str, Any]]:
    """The files of `model` in `folder`; `tell` hears of the bytes of each that have come. Raises Damaged."""
    files: list[dict[str, Any]] = client.get(f"{address(model)}/files")["data"]
    for file in files:
        target = folder / file["path"]
        if not target.resolve().is_relative_to(folder.resolve()):
            raise Damaged(f"the server names a file outside of {folder}: {file['path']}")
        if not _is_whole(target, file):
            _fetch_one(client, model, file, target, tell)
        tell(file["path"], file["size_bytes"])
    return files


def _fetch_one(
    client: Client, model: str, file: dict[str, Any], target: Path, tell: Callable[[str, int], None]
) -> None:
    part = target.with_name(target.name + PART)
    url = f"{address(model)}/files/{quote(file['path'])}"
    client.resume(url, part, file["sha256"], lambda got: tell(file["path"], got))
    if not _is_whole(part, file):
        part.unlink()
        raise Damaged(f"{file['path']} came with another SHA-256 than {file['sha256']}: download it again")
    part.replace(target)


def _is_whole(path: Path, file: dict[str, Any]) -> bool:
    if not path.is_file() or path.stat().st_size != file["size_bytes"]:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == str(file["sha256"])
