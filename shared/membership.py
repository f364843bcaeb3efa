"""A worker's part in an attempt that another one leads: the same phases here, with this machine's devices.

It tells the ledger how far it is and hears with each beat how the attempt stands. Nothing that its child says becomes
an event: node 0 speaks for all. What ends badly here is this node's last word (`leave`), with the error as its own rank
has left it. The keeper gets a renewal only for what proves both: that this node is in the ledger's good books, and that
the leader's beat has moved. So when the sweep takes the job from a leader that is silent, this child is dead, too.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from shared import checkpoints, correlation, crash, devices, folder, keeper, nodes, spawn, tail
from shared.attempt import describe
from shared.errors import LeaseLost, TunesmithError
from shared.lease import LEDGER_AWAY
from shared.member import Member, Standing
from shared.relay import TICK_SECONDS
from shared.store.members import ENDING, STARTED
from shared.work import Run, Work

log = logging.getLogger(__name__)
T = TypeVar("T")


class Dismissed(Exception):
    """The leader has ended the attempt: this part is over."""


class NodeFailed(Exception):
    """This node cannot go on; carries its error and its last status, "failed" or "lost"."""

    def __init__(self, error: dict[str, Any], status: str = "failed"):
        self.error, self.status = error, status
        super().__init__(str(error.get("message")))


class Membership:
    def __init__(self, run: Run, member: Member, work: Work, machine: tuple[str, ...], stopping: threading.Event):
        self.run = run
        self._member, self._work, self._machine, self._stopping = member, work, machine, stopping
        self._settings = run.settings
        self._status = "joined"
        self._told = ""
        self._child: spawn.Kept | None = None
        self._helper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="node")
        #: Monotonic times: when our last good beat began, and when we first saw the leader's as it is now.
        self._renewed_at, self._leader_moved_at = 0.0, time.monotonic()
        self._standing = Standing(-1, "", "", None)

    def serve(self) -> None:
        """Returns when this node has no part any more; nothing of its child is left then."""
        try:
            self._take_part()
            self._leave("ended")
        except (LeaseLost, Dismissed) as over:
            log.info("This node's part is over: %s", over or "dismissed", extra=self._context())
            self._leave("ended")
        except NodeFailed as failure:
            log.warning("This node failed: %s", failure, extra=self._context())
            self._leave(failure.status, failure.error)
        finally:
            self._helper.shutdown(wait=False, cancel_futures=True)
            folder.clear(self.run.folder)

    def _take_part(self) -> None:
        self.run = self._meanwhile(self._prepare)
        for index in range(len(self._work.phases(self.run))):
            self._carry_out(index)

    def _prepare(self) -> Run:
        """As node 0 does; no checkpoint can appear before all nodes train."""
        run = self.run
        if (found := checkpoints.resume_point(run, lambda *_: None)) is not None:
            run = replace(run, resume_from=found[1])
        folder.write_run_json(run, self._work.run_json(run))
        return run

    def _carry_out(self, index: int) -> None:
        """One child from start to end. Raises NodeFailed, Dismissed, LeaseLost"""
        num_oom_kills = crash.count_oom_kills()
        phase = self._work.phases(self.run)[index]
        self._child = child = self._start(index)
        try:
            while child.poll() is None:
                self._tick()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(TICK_SECONDS)
        finally:
            child.kill()
            code, self._child = child.wait(), None
        if code == keeper.EXPIRED:
            text = "the ledger or the leader was silent for too long, and the child of this node was ended"
            raise NodeFailed({"code": "worker_lost", "message": text, "field": None}, "lost")
        outcome = tail.read(self.run.folder / "events.jsonl", 0).outcome
        if code == 0 and (outcome is None or outcome.type != "failed"):
            return
        said = outcome.data.get("error") if outcome is not None else None
        num_oom_kills = crash.count_oom_kills() - num_oom_kills
        raise NodeFailed(crash.explain(self.run.folder, phase.name, code, num_oom_kills, said))

    def _start(self, index: int) -> spawn.Kept:
        if not self._work.phases(self.run)[index].needs_devices:
            return self._spawn(index, ())
        taken = self._take_devices()
        try:
            self.run = replace(self.run, devices=taken.names)
            self._status = "ready"
            self._until(lambda: self._standing.status == STARTED and self._standing.port is not None)
            self.run = replace(self.run, node=self._place())
            child = self._spawn(index, taken.descriptors)
            self._status = "running"
            return child
        finally:
            taken.close()

    def _take_devices(self) -> devices.Taken:
        count = int(self.run.job.requires.get("num_devices") or 1)
        holder = {"id": self.run.job.id, "kind": str(self.run.job.kind)}
        while not isinstance(
            taken := devices.take(self._settings.run_dir, self._machine, count, holder), devices.Taken
        ):
            self._tick()
            time.sleep(TICK_SECONDS)
        return taken

    def _place(self) -> nodes.Node:
        address, port = self._standing.address, self._standing.port or 0
        is_local = address == nodes.LOOPBACK
        interface = "" if is_local else nodes.interface(self._settings, self._member.address)
        return replace(self.run.node, address=address, port=port, interface=interface)

    def _spawn(self, index: int, locks: Sequence[int]) -> spawn.Kept:
        child = folder.start(self.run, self._work.phases(self.run)[index], locks)
        child.renew(min(self._renewed_at, self._leader_moved_at))
        return child

    def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._tick(TICK_SECONDS)
            time.sleep(TICK_SECONDS / 4)

    def _meanwhile(self, slow: Callable[[], T]) -> T:
        """Do something slow in the helper's thread and keep beating. Raises NodeFailed with what it raises"""
        future = self._helper.submit(correlation.carried(slow))
        while not future.done():
            self._tick()
            with suppress(TimeoutError):
                future.exception(timeout=TICK_SECONDS)
        try:
            return future.result()
        except TunesmithError as error:
            raise NodeFailed(describe(error)) from error
        except Exception as error:  # the edge to a kind's own code
            log.exception("A node failed outside of its child", extra=self._context())
            raise NodeFailed(describe(error, code="worker_failed")) from error

    def _tick(self, every_seconds: float = 0.0) -> None:
        """Beat when it is time, or when there is news. Raises LeaseLost, Dismissed"""
        status = "leaving" if self._stopping.is_set() else self._status
        every = every_seconds or self._settings.renew_seconds - TICK_SECONDS / 2
        began = time.monotonic()
        if began - self._renewed_at < every and status == self._told:
            return
        try:
            standing = self.run.store.members.renew(self._member, status)
        except LEDGER_AWAY as error:
            log.warning("The ledger cannot be reached: %s", type(error).__name__, extra=self._context())
            if self._stopping.is_set() and began - self._renewed_at > self._settings.lease_seconds:
                raise LeaseLost("the ledger is away and this worker must end") from error
            return
        if standing.leader_beat != self._standing.leader_beat:
            self._leader_moved_at = began
        self._standing, self._renewed_at, self._told = standing, began, status
        if self._child is not None:
            self._child.renew(min(began, self._leader_moved_at))
        if standing.status == ENDING:
            raise Dismissed

    def _leave(self, status: str, error: dict[str, Any] | None = None) -> None:
        """Where the ledger is away for long, the silence says it."""
        until = time.monotonic() + self._settings.lease_seconds
        while time.monotonic() < until:
            with suppress(*LEDGER_AWAY):
                self.run.store.members.leave(self._member, status, error)
                return
            time.sleep(TICK_SECONDS)

    def _context(self) -> dict[str, Any]:
        return {"job_id": self.run.job.id, "attempt": self.run.attempt, "node_rank": self._member.node_rank}
