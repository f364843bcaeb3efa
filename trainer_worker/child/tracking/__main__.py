"""`python -m trainer_worker.child.tracking <attempt folder> <tracker>`: sends what events.jsonl tells to one tracker.

It runs until its standard input is closed, whose last line says how the training ended. Whatever goes wrong is one
warning of the job.
"""

from __future__ import annotations

import importlib
import math
import os
import select
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shared import tail
from shared.attempt import Attempt
from shared.settings import process_environment
from shared.tracking import VARIABLES
from trainer_worker.child.tracking.run import (
    CRASHED,
    GIVEN_UP,
    LARK,
    STARTED,
    TrackedRun,
    Tracker,
    before,
    folders,
    tracked,
)

#: How often new lines are looked for.
LOOK_SECONDS = 0.5
NICENESS = 5
#: Values that did not get through, one after the other, after which the tracker is given up.
MAX_FAILURES = 3
#: What is no measure of an event: where it was taken, and when.
PLACE = ("step", "total_steps", "elapsed_seconds")


def main(folder: Path, name: str) -> None:
    attempt = Attempt(folder)
    # Beside a training on the same cores it is the tracker that waits.
    os.nice(NICENESS)
    try:
        run = tracked(attempt.run, name)
        module = importlib.import_module(f"trainer_worker.child.tracking.{name}")
        tracker: Tracker = module.start(run)
        tell_where(attempt, name, tracker, run)
        follow(attempt, tracker, before(attempt.run))
    except Exception as error:  # the edge to a library that may do anything: the training goes on without
        attempt.emit("message", f"{name} gets no metrics any more: {harmless(error)}", "warning", tracker=name)
        (folders(attempt.run, name)[1] / GIVEN_UP).touch()


def tell_where(attempt: Attempt, name: str, tracker: Tracker, run: TrackedRun) -> None:
    (run.scratch / STARTED).touch()
    where = tracker.url or "files with the model"
    attempt.emit("tracker", f"{name} gets the metrics: {where}", tracker=name, url=tracker.url, name=run.name)


def follow(attempt: Attempt, tracker: Tracker, earlier: list[dict[str, Any]]) -> None:
    """Until standard input ends: then whatever is left, and the end."""
    num_failed = 0
    for entry in told(attempt, earlier):
        step = int(entry["step"])
        if step <= tracker.last_step:
            continue
        try:
            tracker.log(measures(entry), step)
            num_failed = 0
        except Exception:  # as in main; one value that did not get through is none of the training's business
            num_failed += 1
            if num_failed == MAX_FAILURES:
                raise
    tracker.close(ending())


def told(attempt: Attempt, earlier: list[dict[str, Any]]) -> Iterator[Mapping[str, Any]]:
    yield from earlier
    offset, is_over = 0, False
    while True:
        batch = tail.read(attempt.folder / "events.jsonl", offset)
        yield from (line.data for line in batch.lines if line.type == "metrics")
        if batch.offset == offset and is_over:
            return
        offset = batch.offset
        if not is_over:
            is_over = bool(select.select([sys.stdin], [], [], LOOK_SECONDS)[0])


def measures(entry: Mapping[str, Any]) -> dict[str, float]:
    numbers = ((name, value) for name, value in entry.items() if name not in PLACE)
    return {
        name: float(value)
        for name, value in numbers
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def ending() -> str:
    return sys.stdin.readline().strip() or CRASHED


def harmless(error: Exception) -> str:
    """What went wrong, without the keys that a library may repeat."""
    variables = {variable for known in VARIABLES.values() for variable in known} | {"HF_TOKEN"}
    text = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
    for secret in process_environment(*variables, *LARK).values():
        text = text.replace(secret, "***")
    return text


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
