"""What was measured so far, one line for each sample, answer or task, so that no death of the process loses much.

A checkpoint is a copy of all lines; the worker publishes it and the next attempt goes on after its last line. Samples
come in an order that depends on nothing but the data, so a number of lines says which are done.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shared.attempt import Attempt

#: Not more often than that, and only when the files have grown by a tenth: all copies together stay near ten times
#: their size.
CHECKPOINT_SECONDS = 30.0
GROWTH = 1.1
#: Progress events closer together than this help nobody.
PROGRESS_SECONDS = 1.0
FOLDER = "records"


class Stopped(Exception):
    """A pause or a cancel is wanted; `step` is that of the last checkpoint."""

    def __init__(self, step: int):
        self.step = step
        super().__init__(f"stopped after {step} records")


class Records:
    """By part: what is measured on one dataset, or the tasks. `total` is the number of lines that there will be."""

    def __init__(self, attempt: Attempt, total: int):
        self._attempt, self._total = attempt, total
        self._folder = Path(attempt.run["scratch_dir"]) / FOLDER
        shutil.rmtree(self._folder, ignore_errors=True)
        if (earlier := attempt.run["resume_from"]) is not None:
            shutil.copytree(earlier, self._folder)
        self._folder.mkdir(exist_ok=True)
        self._lines = {path.stem: _read(path) for path in self._folder.glob("*.jsonl")}
        self._saved = self.num_done
        self._saved_at = self._told_at = time.monotonic()

    @property
    def num_done(self) -> int:
        return sum(map(len, self._lines.values()))

    def of(self, part: str) -> list[dict[str, Any]]:
        return self._lines.get(part, [])

    def add(self, part: str, lines: Iterable[dict[str, Any]]) -> None:
        """Keep them, tell how far it is, and stop where that is wanted. Raises Stopped."""
        new = list(lines)
        with open(self._folder / f"{part}.jsonl", "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in new)
        self._lines.setdefault(part, []).extend(new)
        now, is_last = time.monotonic(), self.num_done >= self._total
        if is_last or now - self._told_at > PROGRESS_SECONDS:
            self._told_at = now
            self._attempt.emit("progress", done=self.num_done, total=self._total, unit="samples")
        if now - self._saved_at > CHECKPOINT_SECONDS and self.num_done >= self._saved * GROWTH:
            self.save()
        self.heed()

    def heed(self) -> None:
        if self._attempt.wanted() == "run":
            return
        if self._attempt.wanted() == "pause":
            self.save()
        raise Stopped(self._saved)

    def save(self) -> None:
        """A checkpoint of all lines; its files never change again."""
        if self.num_done == self._saved:
            return
        place = Path(self._attempt.run["scratch_dir"]) / "checkpoints" / str(self.num_done)
        shutil.copytree(self._folder, place)
        self._attempt.emit("checkpoint", step=self.num_done, path=str(place), metrics={"num_done": self.num_done})
        self._saved, self._saved_at = self.num_done, time.monotonic()


def _read(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]
