"""The child's side of the attempt folder: what to do (`run.json`), what is wanted now (`control.json`), what happened
(`events.jsonl`).

Standard library only: every child (training, export, generation) imports it, whatever else its interpreter has. It
knows nothing of ledger or broker. Only rank 0 emits; other ranks leave an `error-rank<n>.json` when they fail. The
last line emitted is the outcome (`done`, `stopped` or `failed`); a child that leaves none has crashed.
"""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from functools import cached_property
from pathlib import Path
from typing import Any

from shared import failures
from shared.tongues import Text, chinese

#: How the ranks of a launcher ended: written by it, read by shared/crash.py.
EXITS = "exits.json"
#: What a training knew of its memory when it began: written by rank 0, read by shared/recovery.py when that failed.
MEMORY = "memory.json"
#: Argument of a child that is started before its turn, and the file that says that it has come (shared/early.py).
WAIT, TURN = "--wait", "turn"
#: Between two looks for it.
TURN_SECONDS = 0.02
#: Types of the last line of a phase.
OUTCOMES = frozenset({"done", "stopped", "failed", "phase_done"})
#: Longest message of an event; a compiler's error can be megabytes.
MAX_MESSAGE_CHARACTERS = 4000


class Attempt:
    """One attempt at one job, as its child sees it."""

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)

    @cached_property
    def run(self) -> dict[str, Any]:
        """What to do: spec, inputs as local paths, devices, output folder, where to resume from."""
        run: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        return run

    def is_its_turn(self) -> bool:
        return (self.folder / TURN).exists()

    def await_turn(self) -> None:
        """For a child that was started early; what run.json says may have changed meanwhile. It has no limit here: its
        keeper has."""
        while not self.is_its_turn():
            time.sleep(TURN_SECONDS)
        self.__dict__.pop("run", None)

    def wanted(self) -> str:
        """`run`, `pause` or `cancel`. Cheap enough to ask after every step."""
        return self.control().get("wanted", "run")

    def control(self) -> dict[str, str]:
        """`{"wanted", "reason"}`, empty while nobody wants anything but to go on."""
        try:
            control: dict[str, str] = json.loads((self.folder / "control.json").read_text())
        except FileNotFoundError:
            return {}
        return control

    def emit(self, type: str, /, message: str = "", level: str = "info", **data: Any) -> None:
        """Append one event; `data` is plain JSON, numbers that JSON lacks (nan, inf) become null. A Text brings its
        Chinese along."""
        data = chinese.beside(message, data) if isinstance(message, Text) else data
        event = {"time": time.time(), "type": type, "level": level, "message": message[:MAX_MESSAGE_CHARACTERS]}
        line = json.dumps(event | {"data": _plain(data)}, allow_nan=False, separators=(",", ":"))
        _append(self.folder / "events.jsonl", line.encode() + b"\n")

    def done(self, **result: Any) -> None:
        """The outcome: all is done, this is what came of it."""
        self.emit("done", **result)

    def stopped(self, step: int) -> None:
        """The outcome: stopped because it was asked to, its last checkpoint is of `step`."""
        self.emit("stopped", step=step, reason=self.control().get("reason", "user"))

    def fail(self, error: BaseException, field: str | None = None, code: str | None = None, **details: Any) -> None:
        """The outcome: failed, as `error` says; `field` is the parameter that the user should change."""
        described = describe(error, field, code, **details)
        self.emit("failed", message=described["message"], level="error", error=described)

    def leave_error(self, rank: int, error: BaseException, field: str | None = None, **details: Any) -> None:
        """For every rank: the error stays readable when the process dies before rank 0 could tell it."""
        described = describe(error, field, **details) | {"traceback": "".join(traceback.format_exception(error))}
        (self.folder / f"error-rank{rank}.json").write_text(json.dumps(_plain(described)))

    def leave_memory(self, **known: Any) -> None:
        """For rank 0: what it knows of its memory, should it be killed for want of it."""
        (self.folder / MEMORY).write_text(json.dumps(_plain(known)))


def describe(error: BaseException, field: str | None = None, code: str | None = None, **details: Any) -> dict[str, Any]:
    """An error as the ledger keeps it: code, class, message, field; `details` are numbers that belong to it, which it
    may bring itself."""
    details = details or getattr(error, "details", {})
    name = type(error).__name__
    return {
        "code": code or failures.code_of(error),
        "class": name,
        "message": (str(error) or name)[:MAX_MESSAGE_CHARACTERS],
        "field": field or getattr(error, "field", None),
        **({"details": details} if details else {}),
    }


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it; numpy and torch scalars through their `item()`, paths as text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "item"):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def _append(path: Path, line: bytes) -> None:
    """One write for the whole line, so that a reader never sees two lines mixed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        while line:  # a full disk may take a part
            line = line[os.write(descriptor, line) :]
    finally:
        os.close(descriptor)
