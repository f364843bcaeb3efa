"""Names that a request may use for a model or a dataset, and what they mean: the catalog, an import root, the Hub.

A dataset may also be an entry of a `dataset_info.json` below an import root. In the order catalog, descriptions, paths,
Hub, at the door (is there such a thing?) and again in the worker (where is it?). A client never chooses
where the server reads: a path counts only below `settings.import_roots`, links resolved first. The Hub is not asked:
whether a name exists there is seen when the child downloads it.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from shared import datasetinfo, reading
from shared.datasetinfo import Entry
from shared.errors import InvalidDataset, NotFound
from shared.settings import Settings
from shared.tongues import Text

if TYPE_CHECKING:
    from shared.artifact import ArtifactStore
    from shared.job import Job
    from shared.store import Store

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


#: LF's default folder of datasets, and its word for "no folder: names are Hub ids".
DATASET_DIR, ONLINE = "data", "ONLINE"
#: Where a job's request has the datasets that its names meant.
PINS = "datasets"
#: How the record of a model that stays on the Hub names it.
HUB = "hub://"


def is_on_hub(uri: str) -> bool:
    return uri.startswith(HUB)


def location(uri: str, artifacts: ArtifactStore) -> str:
    """What a child opens for a record's URI: a local path, or a Hub id. May download an artifact."""
    return uri.removeprefix(HUB) if is_on_hub(uri) else str(artifacts.local_path(uri))


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What a name means; exactly one of record, hub_id and path is given, with or without an entry."""

    name: str
    #: Model or dataset record of the ledger.
    record: Any | None = None
    hub_id: str | None = None
    path: Path | None = None
    #: How a dataset that is no record is described.
    entry: Entry | None = None

    @property
    def reading(self) -> tuple[str, Mapping[str, Any]] | None:
        """Format of a dataset's rows and how they are read, as the ledger has it; None: a file nobody described."""
        if self.record is not None and self.record.format:
            return self.record.format, self.record.columns
        return (str(self.entry.description.formatting), self.entry.as_record()) if self.entry else None

    def as_input(self, artifacts: ArtifactStore) -> dict[str, Any]:
        """A dataset as run.json tells it to a child. May download an artifact."""
        format, columns = self.reading or (None, None)
        digest = self.record.digest if self.record is not None else None
        return {
            "path": self.local(artifacts), "format": format, "columns": columns, "digest": digest, "name": self.name
        }  # fmt: skip

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


def resolve_dataset(
    store: Store, settings: Settings, project_id: str, name: str, dataset_dir: str | None = None
) -> Resolved:
    """`dataset_dir` is where LF's files say that their `dataset_info.json` lies. Raises NotFound, with the nearest
    names."""
    try:
        return Resolved(name=name, record=store.datasets.get(project_id, name))
    except NotFound:
        names = [known for dataset in store.datasets.list(project_id).items for known in (dataset.name, dataset.id)]
    for folder in description_folders(settings.import_roots, dataset_dir):
        described = _descriptions(folder)
        if name in described:
            return _described(settings, folder, name, described[name])
        names += described
    if _below_import_root(settings.import_roots, name) is None:
        # LF names a file where the dataset is meant that was made of it: data/c4_demo.jsonl is c4_demo.
        for other in _of_file(name):
            with contextlib.suppress(NotFound):
                return Resolved(name=name, record=store.datasets.get(project_id, other))
    return _elsewhere(settings, "dataset", name, names)


def _of_file(name: str) -> list[str]:
    """What a dataset made of this file may be called; nothing for a name that is no data file's."""
    file = PurePosixPath(name)
    return [file.name, file.stem] if file.suffix.lower() in reading.SUFFIXES else []


def pins(request: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
    """What a job's request says that names of datasets meant when it was made: name -> {"id", "digest"}."""
    return request.get(PINS) or {}


def dataset_of(store: Store, settings: Settings, job: Job, name: str, dataset_dir: str | None = None) -> Resolved:
    """What a dataset's name means to a job: the upload of when it was made, though a newer one has the name.

    Raises NotFound
    """
    if pin := pins(job.request).get(name):
        return Resolved(name=name, record=store.datasets.get(job.project_id, pin["id"]))
    return resolve_dataset(store, settings, job.project_id, name, dataset_dir)


def description_folders(roots: Iterable[Path], dataset_dir: str | None) -> list[Path]:
    """Folders below import roots that hold a `dataset_info.json`: `dataset_dir`, the roots, LF's default folder."""
    if dataset_dir == ONLINE:
        return []
    allowed = [root.resolve() for root in roots]
    found: list[Path] = []
    for place in (root / name for name in (dataset_dir or ".", ".", DATASET_DIR) for root in allowed):
        with contextlib.suppress(OSError, ValueError):  # no folder can have such a name
            folder = place.resolve()
            is_below = any(folder.is_relative_to(root) for root in allowed)
            if is_below and folder not in found and (folder / datasetinfo.FILE_NAME).is_file():
                found.append(folder)
    return found


def _descriptions(folder: Path) -> dict[str, Any]:
    try:
        return datasetinfo.read(folder / datasetinfo.FILE_NAME)
    except InvalidDataset as error:
        raise NotFound("{folder}/{wrong}", field="dataset", folder=folder.name, wrong=error.message) from error


def _described(settings: Settings, folder: Path, name: str, given: Any) -> Resolved:
    try:
        entry = datasetinfo.parse(name, given)
    except InvalidDataset as error:
        raise NotFound(
            "{folder}/{file}: {wrong}",
            field="dataset",
            folder=folder.name,
            file=datasetinfo.FILE_NAME,
            wrong=error.message,
        ) from error
    if entry.hub_id is not None:
        if settings.hub and is_hub_id(entry.hub_id):
            return Resolved(name=name, hub_id=entry.hub_id, entry=entry)
        raise NotFound(
            "it lies on the Hub as {hub_id!r}, which is switched off (TUNESMITH_HUB)",
            field="dataset",
            hub_id=entry.hub_id,
        )
    path = (folder / str(entry.file_name)).resolve()
    if not path.is_relative_to(folder):
        raise NotFound(
            "its file_name {file_name!r} leads out of {folder}",
            field="dataset",
            file_name=entry.file_name,
            folder=folder.name,
        )
    if not path.exists():
        raise NotFound(
            "its file {file_name!r} is not in {folder}", field="dataset", file_name=entry.file_name, folder=folder.name
        )
    return Resolved(name=name, path=path, entry=entry)


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


def _missing(settings: Settings, what: str, name: str, known: list[str]) -> Text:
    near = difflib.get_close_matches(name[:200], known, n=3, cutoff=0.4) or sorted(known)[:3]
    there = Text("; there is {names}", names=", ".join(repr(other) for other in near))
    hint = there if near else Text("; no {what} is registered yet", what=what)
    where = Text("")
    if name.startswith(("/", "./", "../", "~")):
        where = Text("; paths are allowed below TUNESMITH_IMPORT_ROOTS only")
    elif "/" in name and not settings.hub:
        where = Text("; the Hub is switched off (TUNESMITH_HUB)")
    return Text("there is no {what} {name!r}{hint}{where}", what=what, name=name, hint=hint, where=where)
