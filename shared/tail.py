"""Reads what a child appends to `events.jsonl`, from where the ledger has got to.

Only whole lines count. A line that is no event (a library wrote into the file, a full disk cut it) becomes a warning
and never stops a job. Reading changes nothing: the position moves when the caller says that the batch is committed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.attempt import MAX_MESSAGE_CHARACTERS, OUTCOMES

#: Bytes read at once; what is more comes with the next look.
CHUNK_BYTES = 1024**2
LEVELS = frozenset({"info", "warning", "error"})


@dataclass(frozen=True, kw_only=True)
class Line:
    """One event as the child wrote it."""

    created_at: datetime
    type: str
    level: str = "info"
    message: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The lines between two offsets."""

    lines: tuple[Line, ...]
    #: Where the next batch begins, bytes from the beginning of the file.
    offset: int

    @property
    def outcome(self) -> Line | None:
        """How the child says that it ended."""
        return next((line for line in reversed(self.lines) if line.type in OUTCOMES), None)


def read(path: Path, offset: int) -> Batch:
    """The whole lines after `offset`; none when the file does not exist yet."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            chunk = file.read(CHUNK_BYTES)
    except FileNotFoundError:
        return Batch(lines=(), offset=offset)
    whole = chunk[: chunk.rfind(b"\n") + 1]
    if not whole and len(chunk) == CHUNK_BYTES:
        whole = chunk  # one line longer than a chunk is no event of ours: step over it
    return Batch(lines=tuple(parse(line) for line in whole.splitlines() if line.strip()), offset=offset + len(whole))


def parse(line: bytes) -> Line:
    try:
        # PostgreSQL takes no NUL, in text or in JSON.
        event = json.loads(line.replace(b"\\u0000", b""), parse_constant=lambda _: None)
        data = event.get("data") or {}
        return Line(
            created_at=datetime.fromtimestamp(float(event["time"]), UTC),
            type=str(event["type"]),
            level=event["level"] if event.get("level") in LEVELS else "info",
            message=str(event.get("message") or "")[:MAX_MESSAGE_CHARACTERS],
            data=data if isinstance(data, dict) else {"value": data},
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        text = line[:200].decode(errors="replace").replace("\0", "")
        message = f"the child wrote a line that is no event: {text!r} ({type(error).__name__})"
        return Line(created_at=datetime.now(UTC), type="message", level="warning", message=message)
