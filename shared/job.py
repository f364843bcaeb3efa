"""What a job is, the states it may be in and the moves between them. Values only: the ledger is shared/store."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    TRAIN = "train"
    EXPORT = "export"
    GENERATE = "generate"
    EVALUATE = "evaluate"
    PUSH = "push"


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Wanted(StrEnum):
    """What the user last asked for; the holder of the job brings it about."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


#: From each status, where a job may go next. A finished job never moves again.
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.PAUSED, Status.CANCELLED, Status.FAILED}),
    Status.RUNNING: frozenset(
        {Status.PAUSING, Status.QUEUED, Status.PAUSED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}
    ),
    Status.PAUSING: frozenset(
        {Status.RUNNING, Status.PAUSED, Status.QUEUED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}
    ),
    Status.PAUSED: frozenset({Status.QUEUED, Status.CANCELLED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}

#: Held by a worker.
HELD = frozenset({Status.RUNNING, Status.PAUSING})
#: Finished for good.
TERMINAL = frozenset(status for status, after in TRANSITIONS.items() if not after)
#: An attempt that was lost, or failed in a way that may pass, and that brought no new checkpoint counts; this many in
#: a row fail the job.
MAX_LOST_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Job:
    id: str
    project_id: str
    kind: Kind
    status: Status
    wanted: Wanted
    name: str | None = None
    #: Higher runs first.
    priority: int = 0
    #: The frozen spec, every default written out: {"schema_version": 1, <flat wire names>}.
    spec: dict[str, Any]
    #: What a worker must have: {"num_devices": int}.
    requires: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    #: Envelope of the request that is no hyper-parameter: {"suffix", "training_file", "validation_file", ...}.
    request: dict[str, Any] = field(default_factory=dict)
    #: Number of the current attempt, the fencing token; 0 before the first claim.
    attempt: int = 0
    #: Attempts lost in a row without a new checkpoint.
    lost_attempts: int = 0
    #: What attempts run with instead of the spec's values, after failures that this cures: wire name -> value.
    adjustments: dict[str, Any] = field(default_factory=dict)
    worker_id: str | None = None
    #: Name of the phase the child is in, e.g. "prepare", "train".
    phase: str | None = None
    #: Last metrics and progress: {"step", "total_steps", "loss", ...}.
    progress: dict[str, Any] = field(default_factory=dict)
    #: Filled by the finishing transaction: {"model": name, "metrics": {...}, ...}.
    result: dict[str, Any] = field(default_factory=dict)
    #: {"code", "message", "field"} of a failed job.
    error: dict[str, Any] | None = None
    #: Jobs or deployments to create when this one succeeds.
    then: list[dict[str, Any]] = field(default_factory=list)
    parent_id: str | None = None
    #: Number of the newest event.
    last_event: int = 0
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    job_id: str
    #: 1, 2, 3 ... per job without gaps.
    number: int
    attempt: int
    created_at: datetime
    #: "info", "warning" or "error".
    level: str = "info"
    #: "status", "phase", "message", "metrics", "progress", "checkpoint", "finding" or "done".
    type: str
    message: str
    data: dict[str, Any] = field(default_factory=dict)
    #: A metrics event of a step that a later attempt did again.
    superseded: bool = False
