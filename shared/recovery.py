"""What a failed attempt leads to: another one, adjusted or not, or the end of the job with all that is known of it.

Another attempt is made only where it can end otherwise: when memory did not suffice, with less (ladder.py), unless
`oom_recovery` is off; when the failure was of the surroundings (`retryable` in failures.py), as it is. Reads what the
child left in its folder; writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import failures, ladder, volumes
from shared.advice import shortage
from shared.attempt import MEMORY
from shared.job import Job, Kind

#: What a training may do about it: keep fewer checkpoints.
KEPT = "save_total_limit"
#: Failures that a full disk may be behind.
UNEXPLAINED = frozenset({failures.UNKNOWN, "child_crashed", "worker_failed"})


@dataclass(frozen=True, kw_only=True)
class Answer:
    #: With what to do, and the numbers where memory did not suffice.
    error: dict[str, Any]
    #: Why another attempt may end otherwise; empty: there is none.
    why: str = ""
    #: What it runs with; empty: as before, and it counts among those that may fail in a row.
    adjustments: Mapping[str, Any] | None = None
    #: Before that attempt.
    wait_seconds: float = 0.0


def answer(job: Job, error: Mapping[str, Any], folder: Path, places: Sequence[Path] = ()) -> Answer:
    """`folder` is the attempt's; `places` are others that the job writes to."""
    done = failures.completed(_with_volume(error, [folder, *places]))
    if done["code"] in failures.MEMORY and job.kind == Kind.TRAIN:
        return _of_memory(job, done, _left_by(folder))
    if done["code"] in failures.MEMORY:
        done["field"] = ladder.EVAL if ladder.EVAL in job.spec else None
    if done["code"] == failures.DISK:
        done["field"] = KEPT if KEPT in job.spec else None
    if not done["retryable"]:
        return Answer(error=done)
    why = f"another attempt may end otherwise ({done['code']})"
    return Answer(error=done, why=why, wait_seconds=failures.TABLE[done["code"]].wait_seconds)


def _with_volume(error: Mapping[str, Any], places: Sequence[Path]) -> Mapping[str, Any]:
    """A full disk is named. It may be all that there is to say: who fails by it often cannot write down why."""
    if error.get("code") == failures.DISK and error.get("details"):
        return error  # it was looked at before anything was written
    volume = volumes.fullest(places)
    is_told = error.get("code") == failures.DISK
    if volume is None or not (is_told or (volume.is_full and error.get("code") in UNEXPLAINED)):
        return error
    said, mark, log = str(error.get("message")).partition(f" {failures.LOG}\n")
    message = f"{said.removesuffix('.')}. A disk was full: {volume} now.{mark}{log}"
    details = {"volume": str(volume.place), "free_bytes": volume.free_bytes, "total_bytes": volume.total_bytes}
    return {**error, "code": failures.DISK, "field": None, "message": message, "details": details}


def _of_memory(job: Job, error: dict[str, Any], left: Mapping[str, Any]) -> Answer:
    """`left`: what the child told of its memory when it began to train."""
    told = {name: value for name, value in left.items() if name != "config"}
    details = {**told, **(error.get("details") or {})}
    error = {**error, "details": details}
    is_wanted = job.spec.get("oom_recovery", True)
    rung = ladder.next_rung(job.spec, job.adjustments, details) if is_wanted else {}
    if rung:
        before = {**job.spec, **job.adjustments}
        why = f"memory did not suffice: {ladder.in_words(rung, before)}"
        return Answer(error=error, why=why, adjustments=rung)
    tried = " Nothing smaller is left to try." if is_wanted else " oom_recovery is off: nothing smaller was tried."
    advice = shortage.advice(job.spec, job.adjustments, left.get("config"), details)
    message, mark, log = str(error["message"]).partition(f" {failures.LOG}\n")
    message = f"{message.removesuffix('.')}.{tried} {advice['message']}{mark}{log}"
    return Answer(error={**error, "message": message, **({"nearest": advice["nearest"]} if advice["nearest"] else {})})


def _left_by(folder: Path) -> dict[str, Any]:
    try:
        left: dict[str, Any] = json.loads((folder / MEMORY).read_text())
    except (OSError, ValueError):
        return {}  # it had not come so far
    return left
