"""The artifacts of a backup: from the storage into the place, and back. Each file once, by its digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from gateway.admin.backup.place import Place
from shared.artifact import ArtifactStore, CorruptArtifact, Sealed, SealedFile
from shared.errors import NotFound

#: Path of the one file of an artifact that is no folder.
ITSELF = ""


def contents(artifacts: ArtifactStore, uri: str, digest: str | None) -> Sealed:
    """The files that make an artifact; one that is no folder is read, unless its digest is known.

    Raises NotFound, CorruptArtifact
    """
    if not artifacts.exists(uri):
        raise NotFound(f"{uri} is not in the storage")
    with contextlib.suppress(NotFound, NotADirectoryError):
        sealed = artifacts.sealed(uri)
        if digest not in (None, sealed.digest):
            raise CorruptArtifact(f"the manifest of {uri} is another than the one that was sealed")
        return sealed
    with artifacts.open(uri) as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
        size = content.tell()
    if digest not in (None, f"sha256:{sha256}"):
        raise CorruptArtifact(f"{uri} has sha256 {sha256}, sealed was {digest}")
    file = SealedFile(path=ITSELF, size_bytes=size, sha256=sha256)
    return Sealed(uri=uri, digest=f"sha256:{sha256}", size_bytes=size, files=(file,))


def store(artifacts: ArtifactStore, place: Place, sealed: Sealed) -> list[SealedFile]:
    """Put the files into the place that it lacks; those. Raises NotFound, CorruptArtifact"""
    written = [file for file in sealed.files if not place.has(file)]
    for file in written:
        with artifacts.open(_uri(sealed, file)) as content:
            place.put_object(content, file)
    return written


def fetch(place: Place, artifacts: ArtifactStore, sealed: Sealed, scratch: Path) -> bool:
    """Put an artifact into the storage, digests checked; False: it is there. Raises CorruptArtifact, NotFound"""
    if artifacts.exists(sealed.uri):
        contents(artifacts, sealed.uri, sealed.digest)
        return False
    folder = scratch / "artifact"
    try:
        for file in sealed.files:
            local = folder / (file.path or "file")
            local.parent.mkdir(parents=True, exist_ok=True)
            with place.open_object(file) as source, open(local, "wb") as target:
                shutil.copyfileobj(source, target)
        if sealed.files[0].path == ITSELF:
            made = artifacts.put_file(folder / "file", sealed.uri, adopt=True)
        else:
            made = artifacts.put_folder(folder, sealed.uri, adopt=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if made.digest != sealed.digest:
        artifacts.delete(sealed.uri)
        raise CorruptArtifact(f"{sealed.uri} came with digest {made.digest}, sealed was {sealed.digest}")
    return True


def line(sealed: Sealed) -> str:
    return json.dumps(asdict(sealed)) + "\n"


def parsed(lines: Iterable[str]) -> Iterator[Sealed]:
    for values in map(json.loads, lines):
        files = tuple(SealedFile(**file) for file in values.pop("files"))
        yield Sealed(files=files, **values)


def _uri(sealed: Sealed, file: SealedFile) -> str:
    return f"{sealed.uri}/{file.path}" if file.path else sealed.uri
