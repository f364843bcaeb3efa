"""Small files of a model (config, tokenizer) without its weights: from the storage, an import root, or the Hub.

The Hub is asked only where the administrator allows it, and only for the files named.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from gateway.services import Services
from shared import catalog
from shared.errors import NotFound, Unavailable

#: How long the Hub may take to answer, seconds.
HUB_SECONDS = 10


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
        raise NotFound(f"{hub_id!r} is on the Hub, which is switched off (TUNESMITH_HUB)", field="model")
    from huggingface_hub import hf_hub_download  # imports slowly, and most models are in the catalog
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    for name in files:
        try:
            hf_hub_download(hub_id, name, local_dir=into, etag_timeout=HUB_SECONDS)
        except LocalEntryNotFoundError as error:
            raise Unavailable(f"the Hub cannot be reached for {hub_id!r}: register the model from a folder") from error
        except EntryNotFoundError:
            continue
        except HfHubHTTPError as error:
            raise NotFound(f"the Hub does not give {hub_id!r}: {type(error).__name__}", field="model") from error
    return into
