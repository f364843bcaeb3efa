"""Carries what a child says to the ledger, once per second in one fenced transaction that also renews the lease.

The read offset of `events.jsonl` moves in the same transaction, so an event is never lost and never told twice. Only
after it does the keeper get its renewal, are checkpoints published, do gauges move.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from shared import tail
from shared.attempt import OUTCOMES
from shared.checkpoints import Checkpoints
from shared.early import Early
from shared.errors import LeaseLost
from shared.journey import Journey
from shared.lease import RETRY_SECONDS, Lease
from shared.metrics.counted import Metrics
from shared.records import NewEvent
from shared.spawn import Kept
from shared.tongues import Text, chinese
from shared.work import Run

TICK_SECONDS = 1.0


class Relay:
    def __init__(self, run: Run, lease: Lease, metrics: Metrics, machine: Sequence[str], journey: Journey):
        self.lease = lease
        self._journey = journey
        #: The child whose keeper hears of renewals.
        self.child: Kept | None = None
        #: The next phase's, which hears of them, too.
        self.early = Early(run.settings.run_dir, machine)
        #: How the child says that it ended; reset by `begin`.
        self.outcome: tail.Line | None = None
        self._job_id, self._project_id = run.job.id, run.job.project_id
        self._path = run.folder / "events.jsonl"
        self._settings = run.settings
        self._metrics = metrics
        self._checkpoints = Checkpoints(run, lease, metrics)
        #: Events of the worker's own, for the next renewal.
        self._notes: list[NewEvent] = []
        self._offset = 0
        self._phase: str | None = None
        #: Where each tracker shows the run, by the tracker's name.
        self._trackers: dict[str, Any] = {}
        #: A renewal whose answer did not come: it may have been committed all the same.
        self._in_doubt: tail.Batch | None = None

    def begin(self, phase: str) -> None:
        self.outcome = None
        self._phase = phase
        self._journey.begin(phase)
        self.note("phase", Text("{phase} started", phase=phase), phase=phase)

    def note(self, type: str, message: str, level: str = "info", **data: Any) -> None:
        """Tell an event of our own with the next renewal."""
        told = chinese.beside(message, data)
        self._notes.append(NewEvent(level=level, type=type, message=message, data=told, created_at=datetime.now(UTC)))

    def tick(self) -> bool:
        """Carry over what is new, or renew when it is time; False when the ledger is away. Raises LeaseLost."""
        for problem in self._checkpoints.collect():
            self.note("message", problem, level="warning")
        if self._in_doubt is not None and not self._settle(self._in_doubt):
            return False
        batch = tail.read(self._path, self._offset)
        is_due = time.monotonic() - self.lease.renewed_at >= self._settings.renew_seconds - TICK_SECONDS / 2
        return self._renew(batch) if is_due or self._has_news(batch) else True

    def drain(self) -> None:
        """The child is gone: everything that it wrote is committed, its last checkpoints published."""
        while self._has_news(tail.read(self._path, self._offset)):
            self._tick_or_wait()
        while not self._checkpoints.is_idle:
            self._tick_or_wait()
            time.sleep(0.02)

    def close(self) -> None:
        self._checkpoints.close()
        self._metrics.forget_training(self._job_id)

    def _has_news(self, batch: tail.Batch) -> bool:
        return bool(self._notes) or batch.offset != self._offset

    def _tick_or_wait(self) -> None:
        if self.tick():
            return
        if self.lease.is_hopeless():
            raise LeaseLost("the ledger is away and this worker must end")
        time.sleep(RETRY_SECONDS)

    def _renew(self, batch: tail.Batch) -> bool:
        lines = [line for line in batch.lines if line.type not in OUTCOMES]
        self._phase = next((str(line.data["phase"]) for line in reversed(lines) if _names_phase(line)), self._phase)
        num_notes = len(self._notes)
        events = self._notes[:num_notes] + [_event(line) for line in _told(lines)]
        shown = (line.data for line in lines if line.type == "tracker")
        self._trackers |= {str(data.get("tracker")): data.get("url") for data in shown}
        told = _measured(lines) | ({"trackers": self._trackers} if self._trackers else {})
        if not self.lease.renew(events, batch.offset, self._phase, told):
            self._in_doubt = batch
            return False
        del self._notes[:num_notes]
        self._metrics.events_written.inc(len(events))
        self._committed(batch)
        return True

    def _settle(self, doubtful: tail.Batch) -> bool:
        """Whether the offset has moved tells what became of a renewal without an answer; False: ask again later."""
        offset = self.lease.offset()
        if offset is None:
            return False
        self._in_doubt = None
        if offset != self._offset:
            self._committed(doubtful)
        return True

    def _committed(self, batch: tail.Batch) -> None:
        """What committed lines bring about beside the ledger."""
        self._offset = batch.offset
        self.outcome = batch.outcome or self.outcome
        for child in (self.child, self.early.child):
            if child is not None:
                child.renew(self.lease.renewed_at)
        for line in batch.lines:
            self._journey.hear(line)
            if line.type == "checkpoint":
                self._checkpoints.add(line.data)
            elif line.type == "metrics":
                self._metrics.show_training(self._job_id, self._project_id, line.data)


def _event(line: tail.Line) -> NewEvent:
    data = dict(line.data)
    return NewEvent(level=line.level, type=line.type, message=line.message, data=data, created_at=line.created_at)


def _told(lines: Sequence[tail.Line]) -> list[tail.Line]:
    """The lines that become events: of the progress of a second only the last, and no checkpoint before its row."""
    last = next((line for line in reversed(lines) if line.type == "progress"), None)
    return [line for line in lines if line.type not in ("checkpoint", "progress") or line is last]


def _names_phase(line: tail.Line) -> bool:
    return line.type == "phase" and bool(line.data.get("phase"))


def _measured(lines: Sequence[tail.Line]) -> dict[str, Any]:
    """The last value of everything that these lines measure."""
    measured: dict[str, Any] = {}
    for line in lines:
        if line.type in {"metrics", "progress"}:
            measured |= line.data
    return measured
