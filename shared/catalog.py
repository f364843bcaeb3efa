"""Names that a request may use for a model or a dataset, and what they mean: the catalog, the Hub, an import root.

In this order, at the door (is there such a thing?) and again in the worker (where is it?). A client never chooses
where the server reads: a path counts only below `settings.import_roots`, links resolved first. The Hub is not asked:
whether a name exists there is seen when the child downloads it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import NotFound
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.artifact import ArtifactStore
    from shared.store import Store

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


#: How the record of a model that stays on the Hub names it.
HUB = "hub://"


def is_on_hub(uri: str) -> bool:
    return uri.startswith(HUB)


def location(uri: str, artifacts: ArtifactStore) -> str:
    """What a child opens for a record's URI: a local path, or a Hub id. May download an artifact."""
    return uri.removeprefix(HUB) if is_on_hub(uri) else str(artifacts.local_path(uri))


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What a name means; exactly one of record, hub_id and path is given."""

    name: str
    #: Model or dataset record of the ledger.
    record: Any | None = None
    hub_id: str | None = None
    path: Path | None = None

    def local(self, artifacts: ArtifactStore) -> str:
        """What a child opens: a local path, or the Hub id. May download an artifact."""
        if self.record is not None:
            return location(self.record.uri, artifacts)
        return str(self.path) if self.path is not None else str(self.hub_id)


def resolve_model(store: Store, settings: Settings, project_id: str, name: str) -> Resolved:
    """Raises NotFound, with the nearest names."""
    try:
        return Resolved(name=name, record=store.models.get(project_id, name))
    except NotFound:
        names = (model.name for model in store.models.list(project_id))
        return _elsewhere(settings, "model", name, names)


def resolve_dataset(store: Store, settings: Settings, project_id: str, name: str) -> Resolved:
    """Raises NotFound, with the nearest names."""
    try:
        return Resolved(name=name, record=store.datasets.get(project_id, name))
    except NotFound:
        names = (known for dataset in store.datasets.list(project_id).items for known in (dataset.name, dataset.id))
        return _elsewhere(settings, "dataset", name, names)


def is_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None and ".." not in name


def _elsewhere(settings: Settings, what: str, name: str, known: Iterable[str]) -> Resolved:
    if path := _below_import_root(settings.import_roots, name):
        return Resolved(name=name, path=path)
    if settings.hub and is_hub_id(name):
        return Resolved(name=name, hub_id=name)
    raise NotFound(_missing(settings, what, name, list(known)), field=what)


def _below_import_root(roots: list[Path], name: str) -> Path | None:
    """The existing path that `name` means, absolute or relative to a root, never outside of all roots."""
    if "\0" in name or not name.strip():
        return None
    for root in roots:
        path = (root / name).resolve()
        if path.exists() and any(path.is_relative_to(allowed) for allowed in roots):
            return path
    return None


def _missing(settings: Settings, what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name[:200], known, n=3, cutoff=0.4) or sorted(known)[:3]
    hint = f"; there is {', '.join(repr(other) for other in near)}" if near else f"; no {what} is registered yet"
    if name.startswith(("/", "./", "../", "~")):
        hint += "; paths are allowed below TUNESMITH_IMPORT_ROOTS only"
    elif "/" in name and not settings.hub:
        hint += "; the Hub is switched off (TUNESMITH_HUB)"
    return f"there is no {what} {name!r}{hint}"
