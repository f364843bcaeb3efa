"""The rows that are left to ask, on the disk of this attempt: written once as they will be asked, found again by model.

A model whose replicas are not there yet must not hold up the rows of others, and a million rows must not lie in memory:
so only the places of rows are kept, by the model that they ask.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import IO

from shared.bulk import Row

NAME = "rows.jsonl"


class Spool:
    """Not for several threads at once."""

    def __init__(self, folder: Path, rows: Iterable[Row], done: Collection[str]):
        """`done`: custom ids that have their answer. Raises what `rows` raise."""
        self.num_rows = 0
        #: By model: where each row begins, and how many of them are taken.
        self._places: dict[str, array[int]] = {}
        self._taken: dict[str, int] = {}
        self._file: IO[bytes] = open(folder / NAME, "w+b")  # noqa: SIM115 - open as long as the job runs
        for row in rows:
            self.num_rows += 1
            if row.custom_id not in done:
                self._places.setdefault(row.model, array("Q")).append(self._file.tell())
                self._file.write(json.dumps(asdict(row)).encode() + b"\n")
        self._file.flush()

    @property
    def models(self) -> list[str]:
        return list(self._places)

    def left(self, model: str) -> int:
        """Rows of this model that nobody took."""
        return len(self._places[model]) - self._taken.get(model, 0)

    def take(self, model: str) -> Row:
        """Its next row."""
        number = self._taken.get(model, 0)
        self._taken[model] = number + 1
        self._file.seek(self._places[model][number])
        return Row(**json.loads(self._file.readline()))

    def close(self) -> None:
        self._file.close()
