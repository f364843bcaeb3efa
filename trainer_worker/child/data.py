"""Rows of the datasets that run.json names, as they are trained on, from files or (a name that is no path) the Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from shared.dataset import inspect, rows
from shared.errors import InvalidDataset
from shared.layout import Layout, detect
from shared.rows import Row, read_row

SUFFIXES = (".json", ".jsonl", ".csv", ".txt")


def read(dataset: Mapping[str, Any], max_rows: int | None) -> Iterator[Row]:
    """Raises InvalidDataset."""
    return islice(_all(dataset), max_rows)


def identity(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two datasets the same: their content, and how it is read."""
    path = Path(dataset["path"])
    digest = dataset.get("digest") or (_digest(path) if path.exists() else None)
    return {
        "content": digest or dataset["path"],
        "format": dataset.get("format"),
        "columns": dataset.get("columns"),
    }


def layout_of(dataset: Mapping[str, Any]) -> Layout | None:
    """None: a file that nobody described."""
    return Layout.from_record(dataset["format"], dataset["columns"] or {}) if dataset["format"] else None


def _all(dataset: Mapping[str, Any]) -> Iterator[Row]:
    path = Path(dataset["path"])
    if not path.exists():
        yield from _from_hub(dataset)
        return
    layout, container = layout_of(dataset), (dataset.get("columns") or {}).get("container")
    for file in _files(path):
        yield from rows(file, layout or inspect(file, filename=file.name).layout, container)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
    if not files:
        raise InvalidDataset(f"{path.name} holds no file that ends in {', '.join(SUFFIXES)}", field="dataset")
    return files


def _from_hub(dataset: Mapping[str, Any]) -> Iterator[Row]:
    from datasets import load_dataset

    layout = layout_of(dataset)
    for row in load_dataset(dataset["path"], split="train"):
        layout = layout or detect(row)
        if layout is None:
            names = ", ".join(row)
            raise InvalidDataset(f"the columns of {dataset['path']} are none that we know: {names}", field="dataset")
        yield read_row(row, layout)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    for file in _files(path):
        with open(file, "rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()
