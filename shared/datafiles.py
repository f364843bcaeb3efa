"""Rows of a dataset as run.json names it: from a file, from all files of a folder, or from rows that the Hub gives.

For children. How one file is read is in shared/dataset.py; nothing here asks the Hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared import dataset, reading
from shared.datasetinfo import FILE_NAME
from shared.errors import InvalidDataset
from shared.layout import Layout, detect, wrong_kind
from shared.rows import Row, RowError, read_row

#: One container under two names.
SAME = {"jsonl": "json"}


def layout_of(named: Mapping[str, Any]) -> Layout | None:
    """None: a dataset that nobody described."""
    return Layout.from_record(named["format"], named["columns"] or {}) if named["format"] else None


def is_local(named: Mapping[str, Any]) -> bool:
    return Path(named["path"]).exists()


def files(path: Path) -> list[Path]:
    """The file, or those of a folder, which must be of one type. Raises InvalidDataset."""
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if _suffix(file) in reading.SUFFIXES and file.name != FILE_NAME)
    if not found:
        raise _refused(f"{path.name} holds no file that ends in {', '.join(reading.SUFFIXES)}")
    if outside := [file.name for file in found if not file.resolve().is_relative_to(path.resolve())]:
        raise _refused(f"{outside[0]} in {path.name} is a link that leads out of it")
    kinds = {_suffix(file).removeprefix(".") for file in found}
    if len({SAME.get(kind, kind) for kind in kinds}) > 1:
        raise _refused(f"{path.name} holds files of several types ({', '.join(sorted(kinds))}): keep those of one")
    return found


def rows(named: Mapping[str, Any], stage: tuple[str, str] | None = None) -> Iterator[Row]:
    """Every row of local files, in order. `stage` is its name and the kind of rows that it needs. Raises
    InvalidDataset."""
    layout, container = layout_of(named), (named["columns"] or {}).get("container")
    for file in files(Path(named["path"])):
        with _named(named, file):
            known = layout or dataset.inspect(file, filename=file.name).layout
        check_kind(named, known, stage)
        with _named(named, file):
            yield from dataset.rows(file, known, container)


@contextmanager
def _named(named: Mapping[str, Any], file: Path) -> Iterator[None]:
    """Which dataset, and which file of it, has the rows that are refused."""
    try:
        yield
    except InvalidDataset as error:
        where = named["name"] if Path(named["path"]) == file else f"{named['name']}, {file.name}"
        raise _refused(f"{where}: {error}") from error


def hub_rows(
    given: Iterable[Mapping[str, Any]], named: Mapping[str, Any], stage: tuple[str, str] | None = None
) -> Iterator[Row]:
    """The rows that the Hub's library gives. Raises InvalidDataset."""
    layout = layout_of(named)
    for number, row in enumerate(given, start=1):
        if layout is None and (layout := detect(row)) is None:
            raise _refused(f"{named['name']} has columns that mean nothing here: {', '.join(row)}; describe them")
        if number == 1:
            check_kind(named, layout, stage)
        try:
            yield read_row(row, layout)
        except RowError as error:
            raise _refused(f"{named['name']}, row {number}: {error}") from error


def hub_arguments(named: Mapping[str, Any]) -> dict[str, Any]:
    """What `datasets.load_dataset` is asked for."""
    part = named["columns"] or {}
    return {
        "path": named["path"],
        "name": part.get("subset"),
        "data_dir": part.get("folder"),
        "split": part.get("split") or "train",
    }


def check_kind(named: Mapping[str, Any], layout: Layout, stage: tuple[str, str] | None) -> None:
    """Raises InvalidDataset where the rows are none that the stage learns from."""
    wrong = wrong_kind(layout.kind, *stage) if stage else None
    if wrong:
        raise _refused(f"{named['name']} {wrong}")


def _suffix(file: Path) -> str:
    return Path(file.name.removesuffix(".gz")).suffix.lower()


def _refused(message: str) -> InvalidDataset:
    return InvalidDataset(message, field="dataset")
