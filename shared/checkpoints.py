"""Publishes the checkpoints that a child announces, while it trains on: files first, then the row; and finds the one
that an attempt resumes from.

A checkpoint has two parts, sealed apart: the training's state, and the model as it would be published, so that who
serves or exports it never fetches the state of an optimizer. One thread, in order. A checkpoint that cannot be
published is a warning, not the end of the training: the one before it stays the newest. Losing the lease is the
exception: it is raised where the supervisor asks how things went.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from shared import correlation, keeping
from shared.artifact import CorruptArtifact, Sealed
from shared.errors import InvalidRequest, LeaseLost, NotFound
from shared.job import Kind
from shared.lease import LEDGER_AWAY, Lease
from shared.metrics.counted import Metrics
from shared.records import Checkpoint
from shared.work import Run

log = logging.getLogger(__name__)

#: Members of the child's event that name a folder: the training's state, and the model.
PARTS = ("path", "model")


class Checkpoints:
    def __init__(self, run: Run, lease: Lease, metrics: Metrics):
        self._run = run
        self._lease = lease
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._pending: list[Future[str]] = []

    def add(self, announced: Mapping[str, Any]) -> None:
        """`announced`: the data of the child's event, {"step", "path", "model", "metrics"}; one path may lack."""
        self._pending.append(self._pool.submit(correlation.carried(self._publish), dict(announced)))

    def collect(self) -> list[str]:
        """What went wrong since last asked, as sentences for the job's events. Raises LeaseLost."""
        ended = [future for future in self._pending if future.done()]
        self._pending = [future for future in self._pending if future not in ended]
        return [problem for future in ended if (problem := future.result())]

    @property
    def is_idle(self) -> bool:
        return not self._pending

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _publish(self, announced: dict[str, Any]) -> str:
        step = announced.get("step")
        uris: dict[str, str] = {}
        began = time.monotonic()
        try:
            step = int(announced["step"])
            uris = {part: self._run.uri("checkpoints", str(step), part) for part in PARTS if announced.get(part)}
            self._expect(uris)
            sealed = {
                part: self._run.artifacts.put_folder(self._folder(announced[part]), uri, adopt=True)
                for part, uri in uris.items()
            }
            self._record(step, sealed, dict(announced.get("metrics") or {}))
            self._count(began, sealed)
        except LeaseLost:
            raise
        except Exception as error:  # the edge of this thread: disk full, storage away, a folder rotated away
            log.warning("A checkpoint could not be published", exc_info=True, extra={"job_id": self._lease.job_id})
            self._clean(uris)
            self._metrics.checkpoints.labels(str(self._run.job.kind), "failed").inc()
            return f"the checkpoint of step {step} could not be published: {type(error).__name__}: {error}"
        self._give_away(announced)
        self._remove_old()
        return ""

    def _count(self, began: float, sealed: Mapping[str, Sealed]) -> None:
        job, size_bytes = self._run.job, sum(part.size_bytes for part in sealed.values())
        self._metrics.keep_checkpoint(str(job.kind), time.monotonic() - began, size_bytes)
        if job.kind == Kind.TRAIN:
            self._metrics.show_checkpoint(job.id, job.project_id)

    def _give_away(self, announced: Mapping[str, Any]) -> None:
        """The storage has it now, and a machine's disk need not hold all checkpoints of a long training."""
        for folder in (self._folder(announced[part]) for part in PARTS if announced.get(part)):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty: the other part is still there
                folder.parent.rmdir()

    def _expect(self, uris: Mapping[str, str]) -> None:
        """Nothing is lost track of, whatever dies from here on."""
        store, storage_id = self._run.store, self._run.artifacts.storage_id()
        who: dict[str, Any] = {"job_id": self._lease.job_id, "attempt": self._lease.attempt}
        self._lease.insist(lambda: store.discarded.expect(list(uris.values()), storage_id, **who))

    def _record(self, step: int, sealed: Mapping[str, Sealed], metrics: dict[str, Any]) -> Checkpoint:
        state, model = sealed.get("path"), sealed.get("model")
        told = published(self._run) if model else None
        values: dict[str, Any] = {
            "uri": state.uri if state else "",
            "digest": state.digest if state else "",
            "size_bytes": state.size_bytes if state else 0,
            "name": f"{told.pop('name')}:ckpt-step-{step}" if told else None,
            "model": {**told, **files(model)} if told and model else {},
        }
        attempts, lease = self._lease.store.attempts, self._lease
        return self._lease.insist(
            lambda: attempts.add_checkpoint(lease.job_id, lease.attempt, step=step, metrics=metrics, **values)
        )

    def _remove_old(self) -> None:
        """What `save_total_limit` does not keep; of other kinds of jobs each holds all that the one before does, in
        generation only what came since. Not worth a failure."""
        run = self._run
        if run.job.kind == Kind.GENERATE:
            return
        is_training = run.job.kind == Kind.TRAIN
        spec = run.job.spec if is_training else {"save_total_limit": 1}
        why = f"save_total_limit is {spec.get('save_total_limit')}" if is_training else None
        try:
            known = run.store.checkpoints.list(run.job.project_id, run.job.id)
            if old := keeping.superfluous(known, spec):
                run.store.attempts.remove_checkpoints(run.job.id, run.attempt, old, why)
        except (NotFound, *LEDGER_AWAY):
            log.warning("Old checkpoints stay until the next one", extra={"job_id": run.job.id})

    def _clean(self, uris: Mapping[str, str]) -> None:
        """A full disk gets its room back at once."""
        for uri in uris.values():
            try:
                self._run.artifacts.delete(uri)
            except OSError:
                log.warning("Half a checkpoint stays until the storage is cleaned", extra={"uri": uri})

    def _folder(self, path: Any) -> Path:
        """Absolute, or relative to the attempt; never outside of it."""
        folder = (self._run.folder / str(path)).resolve()
        if not folder.is_relative_to(self._run.folder.resolve()):
            raise InvalidRequest(f"{folder} is outside of the attempt's folder")
        return folder


def published(run: Run) -> dict[str, Any] | None:
    """What a model of this job is to the catalog, by members of its record; None: the job makes none of this kind."""
    told: dict[str, Any] | None = json.loads((run.folder / "run.json").read_text()).get("publishes")
    return told


def files(sealed: Sealed) -> dict[str, Any]:
    return {"uri": sealed.uri, "digest": sealed.digest, "size_bytes": sealed.size_bytes}


def resume_point(run: Run, skip: Callable[[Checkpoint, str], None]) -> tuple[Checkpoint, Path] | None:
    """The newest checkpoint whose files are what was sealed, on this machine; `skip` is told of those that are not."""
    while (latest := run.store.checkpoints.latest(run.job.id)) is not None:
        try:
            return latest, run.artifacts.verified_path(latest.uri, latest.digest)
        except (CorruptArtifact, NotFound) as error:
            skip(latest, error.message)
    if named := run.job.spec.get("resume_from_checkpoint"):
        # Of another job: whether it fits was asked at the door.
        begun = run.store.checkpoints.get(run.job.project_id, named)
        return begun, run.artifacts.verified_path(begun.uri, begun.digest)
    return None
