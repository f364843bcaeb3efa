"""Publishes the checkpoints that a child announces, while it trains on: files first, then the row.

One thread, in order. A checkpoint that cannot be published is a warning, not the end of the training: the one before
it stays the newest. Losing the lease is the exception: it is raised where the supervisor asks how things went.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from shared.errors import InvalidRequest, LeaseLost
from shared.lease import Lease
from shared.work import Run

log = logging.getLogger(__name__)


class Checkpoints:
    def __init__(self, run: Run, lease: Lease):
        self._run = run
        self._lease = lease
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._pending: list[Future[str]] = []

    def add(self, announced: Mapping[str, Any]) -> None:
        """`announced`: the data of the child's event, {"step", "path", "metrics"}."""
        self._pending.append(self._pool.submit(self._publish, dict(announced)))

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
        try:
            step = int(announced["step"])
            uri = self._run.uri("checkpoints", str(step))
            sealed = self._run.artifacts.put_folder(self._folder(announced), uri, adopt=True)
            self._lease.insist(
                lambda: self._lease.store.attempts.add_checkpoint(
                    self._lease.job_id,
                    self._lease.attempt,
                    step=step,
                    uri=sealed.uri,
                    digest=sealed.digest,
                    size_bytes=sealed.size_bytes,
                    metrics=dict(announced.get("metrics") or {}),
                )
            )
        except LeaseLost:
            raise
        except Exception as error:  # the edge of this thread: disk full, storage away, a folder rotated away
            log.warning("A checkpoint could not be published", exc_info=True, extra={"job_id": self._lease.job_id})
            return f"the checkpoint of step {step} could not be published: {type(error).__name__}: {error}"
        return ""

    def _folder(self, announced: Mapping[str, Any]) -> Path:
        """Absolute, or relative to the attempt; never outside of it."""
        folder = (self._run.folder / str(announced["path"])).resolve()
        if not folder.is_relative_to(self._run.folder.resolve()):
            raise InvalidRequest(f"{folder} is outside of the attempt's folder")
        return folder
