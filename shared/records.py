"""The records of the ledger besides Job and Event. Values only: shared/store reads and writes them.

`New...` is what a caller hands in to have a record made: all that the ledger does not decide itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from shared.job import Job, Kind
from shared.served import Deployment as Deployment
from shared.served import DeploymentEvent as DeploymentEvent
from shared.served import Guest as Guest
from shared.served import HeldReplica as HeldReplica
from shared.served import Preset as Preset
from shared.served import Replica as Replica
from shared.served import Route as Route

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    items: list[T]
    #: Whether more follow the last of `items`.
    has_more: bool

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, kw_only=True)
class Project:
    id: str
    name: str
    created_at: datetime
    #: Of the devices, relative to other projects'.
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    id: str
    project_id: str
    name: str
    #: "admin", "user" or "viewer".
    role: str
    #: First characters of the secret, for people to tell keys apart; the secret itself is kept nowhere.
    prefix: str
    created_at: datetime
    revoked_at: datetime | None = None
    #: Of the devices, relative to the project's other keys'.
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class NewEvent:
    type: str
    message: str = ""
    level: str = "info"
    data: dict[str, Any] = field(default_factory=dict)
    #: None: the moment of writing.
    created_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try of one worker at one job."""

    job_id: str
    #: The fencing token: 1 for the first claim of the job.
    number: int
    worker_id: str
    storage_id: str | None
    #: Renewals so far; who holds the job moves it.
    beat: int
    #: Bytes of events.jsonl that are in the ledger.
    events_offset: int
    #: "running", "succeeded", "failed", "cancelled", "released" or "lost".
    status: str
    reason: str | None
    #: What it ran with instead of the spec's values.
    adjustments: dict[str, Any] = field(default_factory=dict)
    #: How it failed; None: it did not.
    error: dict[str, Any] | None = None
    started_at: datetime
    ended_at: datetime | None
    #: Names of the devices that it has taken; None before.
    devices: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    job: Job
    #: Number of the attempt that this claim began.
    attempt: int
    #: Wire name -> value; only for the child's environment.
    secrets: dict[str, str] = field(default_factory=dict, repr=False)


class Held(NamedTuple):
    """What the sweep watches of a held job: the lease lives while (attempt, beat) moves."""

    job_id: str
    attempt: int
    beat: int
    kind: Kind
    worker_id: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    id: str
    job_id: str
    attempt: int
    #: Optimizer steps done.
    step: int
    #: Of all that a training needs to go on; empty: it cannot.
    uri: str
    digest: str
    size_bytes: int
    metrics: dict[str, Any]
    created_at: datetime
    #: What it is called as a model; None: it is none.
    name: str | None = None
    #: As a model: kind, base_model, uri, digest, size_bytes, format, template and config; empty: it is none.
    model: dict[str, Any] = field(default_factory=dict)
    #: Whether the files were found to be others than those that were sealed.
    is_damaged: bool = False

    @property
    def is_resumable(self) -> bool:
        return bool(self.uri) and not self.is_damaged

    @property
    def total_bytes(self) -> int:
        return self.size_bytes + int(self.model.get("size_bytes", 0))


@dataclass(frozen=True, kw_only=True)
class NewDataset:
    name: str
    filename: str
    purpose: str
    format: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    num_rows: int = 0
    size_bytes: int
    digest: str
    uri: str
    status: str = "processed"
    #: Of an upload whose files already lie below their id; None: a new one.
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    id: str
    project_id: str
    name: str
    filename: str
    #: "fine-tune", "batch", "generate", "evals", "fine-tune-results" ...
    purpose: str
    #: "alpaca", "sharegpt" or "openai"; None for files that are no training data.
    format: str | None
    columns: dict[str, Any]
    num_rows: int
    size_bytes: int
    digest: str
    uri: str
    status: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class NewModel:
    name: str
    #: "base", "adapter", "merged" or "quantized".
    kind: str
    #: Name of the model that an adapter, merged or quantized model came from.
    base_model: str | None = None
    job_id: str | None = None
    uri: str
    digest: str
    size_bytes: int
    #: "safetensors", "w4a16", "gguf" ...
    format: str
    template: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    #: What all versions of it are called; None: as the model is.
    family: str | None = None


@dataclass(frozen=True, kw_only=True)
class Model(NewModel):
    id: str
    project_id: str
    created_at: datetime
    #: Counted from 1 in its family, never given twice; None: a checkpoint, which is none.
    version: int | None = None
    #: Of the record, or checkpoint, that it was made from; None: not in the catalog.
    parent_id: str | None = None
    #: Names that mean this version of the family until another takes them: `family@alias`.
    aliases: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    @property
    def parent(self) -> str | None:
        """Name of the model that it was made from, as that was called then."""
        return self.config.get("parent") or self.base_model


@dataclass(frozen=True, kw_only=True)
class NewEvaluation:
    """What one job measured of one model on one dataset, or on one task of lm-evaluation-harness."""

    #: As the job named it, or the adapter that was put on it.
    model_name: str
    #: Of the catalog's record; None: a model of the Hub or of an import root.
    model_id: str | None = None
    dataset: str | None = None
    dataset_id: str | None = None
    #: Results compare only where it is the same.
    dataset_digest: str | None = None
    task: str | None = None
    num_samples: int
    #: Each with its standard error under `<name>_stderr` where it has one.
    metrics: dict[str, Any]
    #: Of the job.
    spec: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evaluation(NewEvaluation):
    id: str
    project_id: str
    job_id: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Worker:
    id: str
    kinds: list[str]
    host: str
    devices: list[str]
    storage_id: str
    labels: list[str]
    metrics_url: str | None
    version: str
    started_at: datetime
    seen_at: datetime
    #: Its devices, `gpus` (name, memory_gib each) where it has any, `host_memory_gib`, and `disk` (see volumes.room).
    machine: dict[str, Any] = field(default_factory=dict)
    #: Where other workers reach its processes; None where nobody needs to.
    address: str | None = None
    #: Since its last beat, by the clock of who asks.
    age_seconds: float = 0.0
