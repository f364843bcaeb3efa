"""Small files of a model (config, tokenizer) without its weights: from the storage, an import root, or the Hub.

The Hub is asked only where the administrator allows it, and only for the files named.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import httpx

from gateway.services import Services
from shared import catalog
from shared.errors import NotFound, Unavailable

#: How long the Hub may be silent, seconds.
HUB_SECONDS = 3.0
#: Largest file that is taken from it; the largest tokenizers have 35 MB.
MAX_FILE_BYTES = 64 * 1024**2


def fetch(services: Services, project_id: str, name: str, files: Collection[str], into: Path) -> Path:
    """A folder with those of the files that the model has. Raises NotFound, Unavailable (no Hub there)."""
    found = catalog.resolve_model(services.store, services.settings, project_id, name)
    hub_id = found.hub_id
    if found.record is not None and catalog.is_on_hub(found.record.uri):
        hub_id = catalog.location(found.record.uri, services.artifacts)
    if hub_id is not None:
        return _from_hub(services, hub_id, files, into)
    if found.path is not None:
        return found.path
    return _from_storage(services, found.record.uri, files, into)  # type: ignore[union-attr]


def _from_storage(services: Services, uri: str, files: Collection[str], into: Path) -> Path:
    for name in files:
        try:
            with services.artifacts.open(f"{uri}/{name}") as file, (into / name).open("wb") as copy:
                shutil.copyfileobj(file, copy)
        except NotFound:
            continue
    return into


def _from_hub(services: Services, hub_id: str, files: Collection[str], into: Path) -> Path:
    if not services.settings.hub:
        raise NotFound("{hub_id!r} is on the Hub, which is switched off (TUNESMITH_HUB)", field="model", hub_id=hub_id)
    base = f"{services.settings.hub_url.rstrip('/')}/{hub_id}/resolve/main"
    try:
        with httpx.Client(timeout=HUB_SECONDS, follow_redirects=True) as client:
            for name in files:
                _download(client, f"{base}/{name}", into / name)
    except httpx.HTTPError as error:
        text = "the Hub cannot be reached for {hub_id!r} ({error}): register the model from a folder"
        raise Unavailable(text, hub_id=hub_id, error=type(error).__name__) from error
    return into


def _download(client: httpx.Client, url: str, path: Path) -> None:
    """One file, where the model has it and it is of a size that a tokenizer or a config can have."""
    with client.stream("GET", url) as answer:
        if answer.status_code == httpx.codes.NOT_FOUND:
            return
        if answer.is_error:
            raise NotFound("the Hub answers {status} for {url}", field="model", status=answer.status_code, url=url)
        size = 0
        with path.open("wb") as file:
            for piece in answer.iter_bytes():
                file.write(piece)
                if (size := size + len(piece)) > MAX_FILE_BYTES:
                    raise NotFound("{url} is larger than {most} bytes", field="model", url=url, most=MAX_FILE_BYTES)
