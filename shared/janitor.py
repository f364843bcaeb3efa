"""Makes room: what retention lets go of leaves the storage, what dead attempts left leaves this machine.

Runs in every worker, which has both at hand; all of it may be done twice, by several at once. The rules for a job
that is over: its checkpoints stay as models for `keep_checkpoints_days`, the states that a training goes on from for
`keep_states_days`, the folders of its attempts (logs, events) for `keep_logs_days`; 0 keeps them for ever. While a
job runs, `save_total_limit` rules (shared/checkpoints.py). What a job, a deployment or a model needs stays.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from shared import folder, nodes
from shared.errors import TunesmithError
from shared.lease import LEDGER_AWAY
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.artifact import ArtifactStore
    from shared.store import Store

log = logging.getLogger(__name__)

#: Who has just been told of files may still be about to open them.
GRACE_SECONDS = 300.0
#: An attempt's folder, below the folder of jobs.
ATTEMPT = re.compile(r"(?P<job_id>[^/]+)/attempts/(?P<number>\d+)(\.node\d+)?")


class Janitor:
    def __init__(
        self, store: Store, artifacts: ArtifactStore, settings: Settings, grace_seconds: float = GRACE_SECONDS
    ):
        self._store = store
        self._artifacts = artifacts
        self._settings = settings
        self._grace_seconds = grace_seconds

    def run(self, closed: threading.Event) -> None:
        """Until `closed`; for a thread of its own."""
        while not closed.wait(self._settings.clean_seconds):
            try:
                self.clean()
            except Exception:  # the edge of a thread that must not end
                log.warning("Cleaning failed; it is tried again", exc_info=True)

    def clean(self) -> None:
        self.expire()
        self.delete_discarded()
        self.clear_attempts()
        if self._settings.keep_cache_days:
            self._artifacts.forget_unused(self._settings.keep_cache_days * 86_400)

    def expire(self) -> None:
        """The rows first: what has none any more is deleted below."""
        storage_id, given = self._artifacts.storage_id(), self._settings
        for days, as_models in ((given.keep_states_days, True), (given.keep_checkpoints_days, False)):
            if days:
                self._store.checkpoints.expire(_before(days), storage_id, as_models=as_models)
        if given.keep_events_days:
            self._store.events.expire(_before(given.keep_events_days))
            self._store.deployment_events.expire(_before(given.keep_events_days))

    def delete_discarded(self) -> None:
        for uri in self._store.discarded.due(self._artifacts.storage_id(), grace_seconds=self._grace_seconds):
            try:
                self._artifacts.delete(uri)
                self._store.discarded.forget(uri)
            except (OSError, TunesmithError, *LEDGER_AWAY):
                log.warning("Files stay for now", exc_info=True, extra={"uri": uri})

    def clear_attempts(self) -> None:
        """Of attempts that nobody holds: what is large at once, the rest when it is old."""
        # Listed before the ledger is asked: a folder that is made meanwhile belongs to a job that is held.
        found = list(self._attempts())
        held = {(job.job_id, job.attempt) for job in self._store.attempts.held()}
        for job_id, number, place in found:
            if (job_id, number) not in held:
                folder.clear(place)
        if self._settings.keep_logs_days:
            over = self._store.jobs.over({job_id for job_id, _, _ in found}, _before(self._settings.keep_logs_days))
            for job_id, jobs in ((job_id, jobs) for job_id in over for jobs in self._jobs):
                shutil.rmtree(jobs / job_id, ignore_errors=True)

    @property
    def _jobs(self) -> list[Path]:
        """This machine's, and where several nodes of one attempt have their folders."""
        shared = nodes.place(self._artifacts)
        return [self._settings.run_dir / "jobs", *([shared / "jobs"] if shared is not None else [])]

    def _attempts(self) -> Iterator[tuple[str, int, Path]]:
        for jobs in self._jobs:
            for place in jobs.glob("*/attempts/*"):
                if named := ATTEMPT.fullmatch(place.relative_to(jobs).as_posix()):
                    yield named["job_id"], int(named["number"]), place


def _before(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)
