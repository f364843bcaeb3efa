"""How a user describes a dataset, in LF's words: fields of an upload, or an entry of `dataset_info.json`.

A file of descriptions is a map from a dataset's name to its entry. Only what is asked for is read of it: LF's own file
names a hundred datasets. What cannot be had here is refused with the reason and what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from shared import strict_json
from shared.errors import Complaint, InvalidDataset
from shared.layout import COLUMN_ROLES, FORMATS, TAG_ROLES, Layout, lacking
from shared.nearest import did_you_mean, nearest
from shared.tongues import Text

FILE_NAME = "dataset_info.json"
#: Largest file of descriptions; LF's has 18 kB.
MAX_BYTES = 4 * 1024**2
MAX_SAMPLES = 2**31
#: Where an entry's rows are, in the order in which LF looks.
SOURCES = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name")
KEYS = frozenset({*SOURCES, "formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags"})
#: Sources that are not read, why, and what to do.
REFUSED: Mapping[str, str] = {
    "ms_hub_url": "lies on ModelScope, which is not asked: download its files and upload them",
    "om_hub_url": "lies on OpenMind, which is not asked: download its files and upload them",
    "script_url": "is a script that would run on the server: run it yourself and upload the rows it makes",
    "cloud_file_name": "lies in a bucket, of which the server has no keys: download its files and upload them",
}


@dataclass(frozen=True, kw_only=True)
class Description:
    """How rows are to be read; None: find out."""

    formatting: str | None = None
    columns: Mapping[str, Any] | None = None
    tags: Mapping[str, Any] | None = None
    ranking: bool | None = None
    #: Rows that are drawn of the dataset, some twice where it has fewer.
    num_samples: int | None = None

    def layout(self) -> Layout | None:
        """None: it must be guessed. Raises InvalidDataset."""
        if self.formatting is not None and self.formatting not in FORMATS:
            near = did_you_mean(self.formatting, FORMATS)
            text = "is {value!r}: must be one of {allowed}{near}"
            raise refused("formatting", Text(text, value=self.formatting[:40], allowed=", ".join(FORMATS), near=near))
        for name, given, known in (("columns", self.columns, COLUMN_ROLES), ("tags", self.tags, TAG_ROLES)):
            if unknown := sorted(set(given or {}) - known):
                allowed, near = ", ".join(sorted(known)), did_you_mean(unknown[0], known)
                text = "has {value!r}: must be among {allowed}{near}"
                raise refused(name, Text(text, value=unknown[0][:40], allowed=allowed, near=near))
        if self.formatting is None and not self.columns:
            return None
        made = Layout.of(self.formatting or "alpaca", self.columns, self.tags, self.ranking)
        if lacks := lacking(made):
            raise refused("columns", lacks)
        return made


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One dataset of a `dataset_info.json`; exactly one of file_name and hub_id is given."""

    name: str
    description: Description
    #: Below the folder of the description.
    file_name: str | None = None
    hub_id: str | None = None
    #: Of a dataset on the Hub.
    subset: str | None = None
    split: str = "train"
    folder: str | None = None

    def as_record(self) -> dict[str, Any]:
        """How its rows are read, in the form in which the ledger keeps that of an upload."""
        layout = self.description.layout() or Layout.of("alpaca")
        origin = {"subset": self.subset, "split": self.split, "folder": self.folder} if self.hub_id else {}
        return {**layout.as_record(), "num_samples": self.description.num_samples, **origin}


def read(path: Path) -> dict[str, Any]:
    """Every entry of a file, unread, by name. Raises InvalidDataset."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise refused(FILE_NAME, Text("has more than {most} bytes", most=MAX_BYTES))
        value = strict_json.loads(path.read_text(encoding="utf-8-sig"), what=FILE_NAME)
    except strict_json.InvalidJson as error:
        raise refused(FILE_NAME, error.message, "invalid_json") from error
    except (OSError, UnicodeDecodeError) as error:
        raise refused(FILE_NAME, Text("cannot be read: {error}", error=type(error).__name__)) from error
    if not isinstance(value, dict):
        raise refused(FILE_NAME, "must be an object of names and descriptions", "invalid_type")
    return value


def chosen(given: Any, name: str | None, filename: str) -> Entry:
    """The entry that an upload means: the one given, or of a whole map the one of its name, of its file, or the only
    one. Raises InvalidDataset."""
    if not isinstance(given, dict) or not given:
        raise refused("dataset_info", "must be an object: one entry, or names with an entry each", "invalid_type")
    if _is_entry(given):
        return parse(name or PurePath(filename).stem, given, of_upload=True)
    by_file = [key for key, entry in given.items() if PurePath(str(entry.get("file_name"))).name == filename]
    for key in (name, PurePath(filename).stem, *(by_file if len(by_file) == 1 else ()), *given):
        if key in given and (key in (name, PurePath(filename).stem, *by_file) or len(given) == 1):
            return parse(str(key), given[key], of_upload=True)
    known = ", ".join(list(given)[:10])
    text = "has no entry for {asked!r}: it has {known}; say which one as `name`"
    raise refused("dataset_info", Text(text, asked=name or filename, known=known))


def _is_entry(given: Mapping[str, Any]) -> bool:
    """Else a map of entries: each is an object, and none of the names is, or is meant as, a key of an entry."""
    if not all(isinstance(entry, dict) for entry in given.values()):
        return True
    return any(nearest(name, KEYS) and not any(key in entry for key in SOURCES) for name, entry in given.items())


def parse(name: str, entry: Any, *, of_upload: bool = False) -> Entry:
    """Raises InvalidDataset."""
    if not isinstance(entry, dict):
        raise _wrong(name, "must be an object", "invalid_type")
    for key, value in entry.items():
        if key not in KEYS:
            near = did_you_mean(key, KEYS)
            raise _wrong(name, Text("has {key!r}, which is unknown{near}", key=key[:40], near=near), "unknown_field")
        if complaint := _value(key, value):
            raise _wrong(name, Text("{key} {complaint}", key=key, complaint=complaint), "invalid_type")
    made = _described(name, entry)
    source = "file_name" if of_upload else next((key for key in SOURCES if entry.get(key)), None)
    if source is None:
        raise _wrong(name, "does not say where its rows are: give file_name or hf_hub_url")
    if source in REFUSED:
        raise _wrong(name, REFUSED[source], "unsupported")
    if source == "file_name":
        for key, complaint in _parts(entry):
            raise _wrong(name, Text("{key} {complaint}", key=key, complaint=complaint), "unsupported")
        return Entry(name=name, description=made, file_name=entry.get("file_name"))
    origin = {key: entry[key] for key in ("subset", "split", "folder") if entry.get(key)}
    return Entry(name=name, description=made, hub_id=entry["hf_hub_url"], **origin)


def described_by_fields(given: Mapping[str, Any]) -> Description:
    """From the fields of an upload, each under its own name. Raises InvalidDataset."""
    for key, value in given.items():
        if complaint := _value(key, value):
            raise refused(key, complaint, "invalid_type")
    for key, complaint in _parts(given):
        raise refused(key, complaint, "unsupported")
    made = Description(**{key: value for key, value in given.items() if key not in ("subset", "split")})
    made.layout()
    return made


def _described(name: str, entry: Mapping[str, Any]) -> Description:
    made = Description(
        formatting=entry.get("formatting") or "alpaca",
        columns=entry.get("columns"),
        tags=entry.get("tags"),
        ranking=entry.get("ranking"),
        num_samples=entry.get("num_samples"),
    )
    try:
        made.layout()
    except InvalidDataset as error:
        raise _wrong(name, error.message, error.complaints[0].code) from error
    return made


def _parts(entry: Mapping[str, Any]) -> Iterator[tuple[str, Text]]:
    """What chooses a part of a dataset on the Hub: a file has none."""
    for key, whole in (("subset", None), ("split", "train"), ("folder", None)):
        if entry.get(key) not in (None, whole):
            yield key, Text("chooses a part of a dataset on the Hub: a file has none")


def _value(key: str, value: Any) -> Text | None:
    """What is wrong with one value of an entry."""
    if value is None:
        return None
    if key == "ranking":
        return None if isinstance(value, bool) else Text("must be true or false")
    if key == "num_samples":
        fits = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_SAMPLES
        text = "is {value}: must be a whole number from {low} to {high}"
        return None if fits else Text(text, value=str(value)[:40], low=1, high=MAX_SAMPLES)
    if key in ("columns", "tags"):
        texts = isinstance(value, dict) and all(name is None or isinstance(name, str) for name in value.values())
        return None if texts else Text("must be an object of texts")
    return None if isinstance(value, str) else Text("must be text")


def _wrong(name: str, message: str, code: str = "invalid_value") -> InvalidDataset:
    return refused("dataset_info", Text("{name!r} {complaint}", name=name[:100], complaint=Text(message)), code)


def refused(field: str, message: str, code: str = "invalid_value") -> InvalidDataset:
    return InvalidDataset(f"{field} {message}", complaints=[Complaint(field=field, message=message, code=code)])
