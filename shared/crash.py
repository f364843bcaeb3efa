"""What to tell the user about a child that ended without saying how. It reads what was left, and changes nothing."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from shared import keeper

NUM_LINES = 20
#: Bytes of the end of a log that are looked at.
TAIL_BYTES = 16 * 1024


def explain(folder: Path, phase: str, code: int, num_oom_kills: int = 0) -> dict[str, Any]:
    """The job's error: the rank's own when it left one, else the exit code and the end of the log."""
    if left := _left_behind(folder):
        return left
    said = [f"the {phase} child {meaning(code)}"]
    if num_oom_kills:
        said.append("the kernel killed a process of this machine meanwhile because memory ran out")
    lines = last_lines(folder, phase)
    text = "; ".join(said) + (f". The end of its log:\n{lines}" if lines else ". Its log is empty.")
    return {"code": "child_crashed", "class": "ChildFailed", "message": text, "field": None}


def meaning(code: int) -> str:
    if code == keeper.NOT_STARTED:
        return "could not be started"
    if code < 0:
        return f"was lost with its keeper, which was ended by signal {-code}"
    if code <= 128:
        return f"ended with exit code {code} and without a result"
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return f"ended with exit code {code} and without a result"
    cause = ": the host ran out of memory, or somebody killed it" if name == "SIGKILL" else ""
    return f"was ended by signal {code - 128} ({name}, exit code -{code - 128}){cause}"


def last_lines(folder: Path, phase: str) -> str:
    """The end of the log that was written last: a rank's, else the launcher's."""
    logs = [path for path in (folder / "logs").glob("rank*.log") if path.stat().st_size]
    path = max(logs, key=lambda log: log.stat().st_mtime, default=folder / "logs" / f"{phase}.log")
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").replace("\0", "").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(line.rpartition("\r")[2][:500] for line in lines[-NUM_LINES:])  # progress bars end in \r


def count_oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since the machine started."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))


def _left_behind(folder: Path) -> dict[str, Any] | None:
    """The earliest error file of any rank: later ones mostly say that the first rank was gone."""
    files = sorted(folder.glob("error*.json"), key=lambda path: path.stat().st_mtime)
    for path in files:
        try:
            left = json.loads(path.read_text())
            message = str(left["message"])
        except (ValueError, KeyError, TypeError):
            continue  # cut short when it died
        return {
            "code": str(left.get("code") or "child_failed"),
            "class": str(left.get("class") or "Exception"),
            "message": message,
            "field": left.get("field"),
        }
    return None
