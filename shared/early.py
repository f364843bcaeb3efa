"""The child of a phase, started while the phase before still computes: it loads its libraries and waits for its turn.

That takes seconds and needs nothing of what the phase before makes. It is done where no device has to be known for it:
on a machine without GPUs, for a phase that says that it can wait (`Phase.waits`), while the machine is free. What waits
holds no device: its keeper has the lock's file open, and the lock is taken on that file when the turn has come. It
takes memory, and so is ended when its turn does not come soon; the phase then starts as any other.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared import devices, folder
from shared.attempt import TURN, WAIT
from shared.devices import CPU
from shared.spawn import Kept
from shared.work import Phase, Run

log = logging.getLogger(__name__)

#: Longest that a child waits, with some 400 MB of libraries.
LIMIT_SECONDS = 60.0


class Early:
    def __init__(self, run_dir: Path, machine: Sequence[str]):
        self._run_dir, self._machine = run_dir, machine
        #: None where none waits.
        self.child: Kept | None = None
        self._phase: Phase | None = None
        self._opened: int | None = None
        self._until = 0.0

    def start(self, run: Run, phases: Sequence[Phase]) -> Kept | None:
        """The first of `phases`, those that are to come, where it can be."""
        is_alone = run.node.count == 1 and tuple(self._machine) == (CPU,)
        if not phases or not phases[0].waits or not is_alone or not devices.free(self._run_dir, self._machine):
            return None
        self._phase, self._until = phases[0], time.monotonic() + LIMIT_SECONDS
        try:
            self._opened = devices.opened(self._run_dir, CPU)
            self.child = folder.start(run, replace(self._phase, argv=[*self._phase.argv, WAIT]), [self._opened])
        except OSError:
            log.warning("A child could not be started early", exc_info=True, extra={"job_id": run.job.id})
            self.drop()
        return self.child

    def look(self) -> None:
        """End it when it has waited for long."""
        if self.child is not None and time.monotonic() >= self._until:
            self.drop()

    def take(self, count: int, holder: Mapping[str, Any]) -> devices.Taken | devices.Busy:
        """The devices; the lock of the machine's only one on the file that the waiting child's keeper has open, too."""
        taken = devices.take(self._run_dir, self._machine, count, holder, opened=self._opened)
        if isinstance(taken, devices.Taken):
            self._opened = None  # closed by who has taken it
        return taken

    def begin(self, run: Run, phase: Phase) -> Kept | None:
        """The child whose turn it is now; None where none waits for it."""
        child = self.child
        if child is None or child.poll() is not None or phase != self._phase:
            self.drop()
            return None
        self.child = None
        folder.update_run_json(run)
        (run.folder / TURN).touch()
        return child

    def drop(self) -> None:
        """Nothing of it is left when this returns."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None
