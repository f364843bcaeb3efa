"""Tokenized samples on disk: flat files of ids, marks, offsets and labels, memory-mapped by every rank.

A pair of answers is two samples, one after the other, the better first. A store appears under its name whole or not at
all, so it can be shared by all jobs of the machine. It knows nothing of templates or datasets.
"""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from shared.conversation import Sample

IDS, MARKS, OFFSETS, META = "ids.bin", "supervised.bin", "offsets.bin", "meta.json"
LABELS = "labels.bin"
#: Mark of a place where the end of text is learned instead of what stands there; 1 is what stands there, 0 nothing.
END = 2
#: What stands there where nobody said.
NO_LABEL = -1


class TokenStore:
    def __init__(self, folder: Path):
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / META).read_text())
        #: Where each sample begins, and at last where the last one ends.
        self.offsets = np.fromfile(folder / OFFSETS, dtype=np.int64)
        self._ids = _map(folder / IDS, np.int32)
        self._marks = _map(folder / MARKS, np.uint8)
        self.end_id: int = self.meta["end_id"]
        #: Of each sample: 1 desirable, 0 not, NO_LABEL.
        self.labels = np.fromfile(folder / LABELS, dtype=np.int8)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and marks of one sample."""
        place = slice(self.offsets[index], self.offsets[index + 1])
        return self._ids[place], self._marks[place]


def write(folder: Path, samples: Iterable[Sample], meta: Callable[[], Mapping[str, Any]]) -> TokenStore:
    """Write beside and rename; `meta` is asked after the last sample. What stood there is replaced."""
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    beside.mkdir(parents=True)
    try:
        offsets, labels = array("q", [0]), array("b")
        with open(beside / IDS, "wb") as ids, open(beside / MARKS, "wb") as marks:
            for sample in samples:
                np.asarray(sample.input_ids, dtype=np.int32).tofile(ids)
                learned = np.asarray(sample.supervised, dtype=np.uint8)
                learned[list(sample.ends)] = END
                learned.tofile(marks)
                offsets.append(offsets[-1] + len(sample.input_ids))
                labels.append(NO_LABEL if sample.label is None else int(sample.label))
        (beside / OFFSETS).write_bytes(offsets.tobytes())
        (beside / LABELS).write_bytes(labels.tobytes())
        (beside / META).write_text(json.dumps(dict(meta())))
        _publish(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return TokenStore(folder)


def exists(folder: Path) -> bool:
    return (folder / META).is_file()


def _publish(beside: Path, folder: Path) -> None:
    """What was there goes aside first: a training that reads it keeps its files open."""
    before = beside.with_suffix(".old")
    with suppress(FileNotFoundError):
        folder.rename(before)
    beside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def _map(path: Path, dtype: Any) -> np.ndarray:
    if path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")
