"""What a kind of job adds to the runner: which children to start, what they are told, what is published after.

The runner (shared/runner.py) does everything else: claim, lease, devices, events, checkpoints, cancel, pause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from shared.job import Job, Kind
from shared.nodes import Node
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.artifact import ArtifactStore, Sealed
    from shared.store import Store


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One child to start."""

    name: str
    argv: Sequence[str]
    #: Added to the allow-listed environment and the job's secrets.
    env: Mapping[str, str] = field(default_factory=dict)
    #: Whether the job's devices are taken before it starts.
    needs_devices: bool = True
    #: Whether its child can be started before its turn, given one more argument (shared/early.py).
    waits: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt at one job, as the runner and its work see it."""

    job: Job
    attempt: int
    #: The attempt folder; the child's working directory.
    folder: Path
    #: Secret parameters by wire name; they reach the child's environment only.
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Names of the devices held; empty before the first phase that needs them.
    devices: tuple[str, ...] = ()
    #: Newest checkpoint of an earlier attempt, as a local folder.
    resume_from: Path | None = None
    #: This worker's place among those that make the attempt together.
    node: Node = field(default_factory=Node)
    #: Attempt folder of node 0, where all nodes write what is one; None: this one's own.
    shared: Path | None = None
    settings: Settings
    store: Store
    artifacts: ArtifactStore

    @property
    def output(self) -> Path:
        return (self.shared or self.folder) / "output"

    @property
    def scratch(self) -> Path:
        return (self.shared or self.folder) / "scratch"

    def uri(self, *parts: str) -> str:
        """Where files of this attempt are published; no other attempt writes there."""
        return self.artifacts.uri("jobs", self.job.id, "attempts", str(self.attempt), *parts)

    def publish(self, folder: Path, name: str) -> Sealed:
        """Seal what this attempt made, without a copy where the file system can. If it never gets a record, because the
        worker dies now, it is deleted later."""
        uri, storage_id = self.uri(name), self.artifacts.storage_id()
        self.store.discarded.expect([uri], storage_id, job_id=self.job.id, attempt=self.attempt)
        try:
            return self.artifacts.put_folder(folder, uri, adopt=True)
        except OSError:
            # A part of a large model must not fill a disk until the janitor comes.
            with suppress(OSError):
                self.artifacts.delete(uri)
            raise


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What the finishing transaction writes."""

    result: Mapping[str, Any]
    #: `NewModel` values of shared/store.
    models: Sequence[Any] = ()
    datasets: Sequence[Any] = ()
    evaluations: Sequence[Any] = ()


class Work(Protocol):
    """One kind of job."""

    @property
    def kind(self) -> Kind: ...

    def phases(self, run: Run) -> Sequence[Phase]:
        """The children, in order. Asked again before each phase, with the devices held by then: keep it pure."""

    def run_json(self, run: Run) -> Mapping[str, Any]:
        """Members of run.json beside the common ones: inputs resolved to local paths. May download, and be repeated."""

    def finish(self, run: Run, done: Mapping[str, Any]) -> Finish:
        """Publish what the child made; `done` is the data of its outcome. May upload.

        Asked again when the ledger was away in the middle: sealing the same folder twice is fine.
        """


@runtime_checkable
class Salvages(Protocol):
    """Work of which something stays when its job is cancelled or fails."""

    def salvage(self, run: Run) -> Finish:
        """As of `finish`."""


def salvaged(work: Work, run: Run) -> Finish:
    return work.salvage(run) if isinstance(work, Salvages) else Finish(result={})
