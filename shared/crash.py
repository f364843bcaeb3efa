"""What to tell the user about a child that failed: the first cause, whichever rank it was. Reads what was left only.

A rank that raised has left `error-rank<n>.json`; one that a signal ended has not, but the launcher tells its exit code
(`exits.json`). What the other ranks say afterwards, that their peer is gone, is never the cause.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from shared import failures, keeper, logs
from shared.attempt import EXITS

NUM_LINES = 20
#: Bytes of the end of a log that are looked at.
TAIL_BYTES = 16 * 1024
#: The launcher ends the ranks that are left by SIGTERM, and those that do not heed it by SIGKILL after 30 s: no cause.
ENDED_BY_US, OURS_AFTER_SECONDS = -signal.SIGTERM, 15
#: What a rank may be left with by another's end: then that one's error counts more.
AFTER_OTHERS = -signal.SIGABRT


class Exit(NamedTuple):
    rank: int
    #: Negative: ended by that signal.
    code: int
    #: When the launcher saw it, Unix seconds.
    seen_at: int


def explain(
    folder: Path, phase: str, code: int, num_oom_kills: int = 0, said: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The job's error: what the first rank to fail has left (else what rank 0 has said), else how it ended and the end
    of its log."""
    ended, left = _first_killed(folder), _first_left(folder) or said
    if left is not None and (ended is None or not _is_after(left, ended)):
        return left
    who = f"the {phase} child" if ended is None else f"rank {ended.rank} of {phase}"
    code = code if ended is None else 128 - ended.code
    rank = ended.rank if ended else None
    lines = last_lines(folder, phase, rank)
    text = f"{who} {meaning(code)}"
    if num_oom_kills and code == 128 + signal.SIGKILL:
        text += "; the kernel killed it because memory ran out"
    text += f". {failures.LOG}\n{lines}" if lines else ". Its log is empty."
    named = {"code": _code(code, num_oom_kills, lines), "class": "ChildFailed", "message": text, "field": None}
    return {**named, **({} if rank is None else {"rank": rank})}


def _first_left(folder: Path) -> dict[str, Any] | None:
    """The earliest error that any rank has left and that is not the loss of another rank; else that; else nothing."""
    left = _left_behind(folder)
    return next((error for error in left if error["code"] != failures.PEER), left[0] if left else None)


def _is_after(left: dict[str, Any], ended: Exit) -> bool:
    """Whether a rank's error came of the end of one that was killed."""
    return left["code"] == failures.PEER or (left["code"] == failures.UNKNOWN and ended.code != AFTER_OTHERS)


def _code(code: int, num_oom_kills: int, lines: str) -> str:
    """Of an exit code as a keeper tells it: 128 and the signal; below zero: the signal that ended the keeper itself."""
    if code in (128 + signal.SIGKILL, -signal.SIGKILL):
        return "host_out_of_memory" if num_oom_kills else "child_killed"
    # An abort is a last word of native code, which says why.
    return (failures.code_in(lines) if code == 128 + signal.SIGABRT else None) or "child_crashed"


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
    return f"was ended by signal {code - 128} ({name}, exit code -{code - 128})"


def last_lines(folder: Path, phase: str, rank: int | None = None) -> str:
    """The end of a rank's log; else of the log that was written last, a rank's or the launcher's."""
    told = {path: lines for path in (folder / "logs").glob("rank*.log") if (lines := _end_of(path))}
    own = [path for path in told if path.stem == f"rank{rank}"]
    path = max(own or told, key=lambda log: log.stat().st_mtime, default=None)
    lines = told[path] if path is not None else _end_of(folder / "logs" / f"{phase}.log")
    return "\n".join(line.rpartition("\r")[2][:500] for line in lines[-NUM_LINES:])  # progress bars end in \r


def _end_of(path: Path) -> list[str]:
    """The last lines of a log, but for the one that only says whose it is."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").replace("\0", "").splitlines()
    except FileNotFoundError:
        return []
    return [line for line in lines if not logs.is_beginning(line)]


def count_oom_kills() -> int:
    """How many processes the kernel has killed for want of memory: of this container, else since the machine started.

    The machine's own count tells of other containers, too.
    """
    for path in (*_of_container(), Path("/proc/vmstat")):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0


def _of_container(root: Path = Path("/sys/fs/cgroup")) -> Iterator[Path]:
    """Where the kernel counts for our control group, of version 2 and 1; a container may see its own as the root."""
    try:
        groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    except (OSError, ValueError):
        return
    for place in dict.fromkeys((groups.get("", "/"), "/")):
        yield root / place.lstrip("/") / "memory.events"
    for place in dict.fromkeys((groups.get("memory", "/"), "/")):
        yield root / "memory" / place.lstrip("/") / "memory.oom_control"


def _first_killed(folder: Path) -> Exit | None:
    """The first rank that a signal ended which was not the launcher's."""
    exits = _exits(folder)
    until = min((one.seen_at for one in exits), default=0) + OURS_AFTER_SECONDS
    return next((one for one in exits if one.code < 0 and one.code != ENDED_BY_US and one.seen_at <= until), None)


def _exits(folder: Path) -> list[Exit]:
    """In the order in which the launcher saw them."""
    try:
        return [Exit(**one) for one in json.loads((folder / EXITS).read_text())]
    except (OSError, ValueError, TypeError):
        return []  # not there, or cut short


def _left_behind(folder: Path) -> list[dict[str, Any]]:
    """The error files of all ranks, earliest first."""
    found = []
    for path in sorted(folder.glob("error*.json"), key=lambda path: path.stat().st_mtime_ns):
        try:
            left = json.loads(path.read_text())
            message = str(left["message"])
        except (ValueError, KeyError, TypeError):
            continue  # cut short when it died
        named = {"code": str(left.get("code") or failures.UNKNOWN), "class": str(left.get("class") or "Exception")}
        rank = path.stem.removeprefix("error-rank")
        told = {"rank": int(rank)} if rank.isdigit() else {}
        told |= {"details": left["details"]} if left.get("details") else {}
        found.append({**named, "message": message, "field": left.get("field"), **told})
    return found
