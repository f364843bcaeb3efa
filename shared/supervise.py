"""One attempt at one job, from its claim to its end.

The supervisor starts each phase's child, passes on what the user wants, publishes what came of it and writes the end.
Nothing blocks it for long: inputs are fetched and results published in a thread while it keeps renewing the lease. It
computes nothing and kills nobody: the keeper does.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from shared import checkpoints, correlation, crash, devices, failures, folder, keeper, recovery, spawn, tail
from shared.crew import Crew, Lost
from shared.endings import Failed, Withdrawn, as_failure, error_of
from shared.errors import InvalidSpec, LeaseLost
from shared.job import Status, Wanted
from shared.journey import Journey
from shared.lease import Lease
from shared.metrics.counted import Metrics
from shared.nodes import Node
from shared.records import Checkpoint
from shared.relay import TICK_SECONDS, Relay
from shared.tongues import Text
from shared.work import Finish, Phase, Run, Work, salvaged

log = logging.getLogger(__name__)
T = TypeVar("T")

#: What this node's own rank says of the end of another node is worth this long.
LAST_WORD_SECONDS = 5.0
#: A child that has said how it ended may take this long to be gone; NCCL has been seen to hang at exit.
GOODBYE_SECONDS = 30.0


class Wish(StrEnum):
    """Why the work shall stop; the value is what folder.write_control takes."""

    NONE = ""
    CANCEL = "cancel"
    PAUSE = "pause"
    SHUTDOWN = "shutdown"


ANY = frozenset(Wish) - {Wish.NONE}


class Supervisor:
    def __init__(
        self,
        run: Run,
        work: Work,
        machine: tuple[str, ...],
        metrics: Metrics,
        stopping: threading.Event,
        journey: Journey | None = None,
    ):
        self.run = run
        self._journey = journey or Journey()
        self._work = work
        self._metrics = metrics
        self._stopping = stopping
        self._settings = run.settings
        self._lease = Lease(run.store, run.job.id, run.attempt, stopping, run.settings.lease_seconds)
        self._relay = Relay(run, self._lease, metrics, machine, self._journey)
        self._early = self._relay.early
        self._crew = Crew(run, self._lease)
        self._helper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="attempt")
        self._began = time.monotonic()
        self._is_over = False  # the job, not only this attempt

    def supervise(self) -> None:
        """The whole attempt. Returns when the job has an end, a new place in the queue, or another holder."""
        try:
            self._to_its_end()
        except LeaseLost as lost:
            log.warning("The job is not ours any more, writing nothing: %s", lost, extra=self._context())
            self._journey.end("lost", str(lost))
        finally:
            self._clean_up()

    def _to_its_end(self) -> None:
        try:
            done = self._with_crew(self._go_through_phases)
            self._journey.begin("publish")
            finish = self._meanwhile(lambda: self._work.finish(self.run, done), heeding=frozenset({Wish.CANCEL}))
            self._finish(Status.SUCCEEDED, finish=finish)
            self._metrics.count_training(done)
        except Lost as node:
            self._give_up(str(node))
        except Withdrawn as why:
            self._withdraw(str(why))
        except Failed as failure:
            self._answer(failure.error)

    def _answer(self, error: Mapping[str, Any]) -> None:
        """The end of a failed attempt: another one where that may end otherwise, else the job's."""
        settings = self._settings
        places = (settings.run_dir, Path(settings.storage_url), settings.home)
        answer = recovery.answer(self.run.job, error, self.run.folder, places)
        if not answer.why:
            self._finish(Status.FAILED, finish=self._salvaged(), error=answer.error)
            return
        until = time.monotonic() + answer.wait_seconds
        while time.monotonic() < until and self._wish() is Wish.NONE:
            self._relay.tick()
            time.sleep(TICK_SECONDS)
        retry = self.run.store.attempts.retry
        left = self._lease.insist(
            lambda: retry(
                self.run.job.id,
                self.run.attempt,
                error=answer.error,
                why=answer.why,
                adjustments=answer.adjustments,
            )
        )
        code = str(answer.error.get("code"))
        self._metrics.job_retries.labels(str(self.run.job.kind), code).inc()
        self._metrics.leave_job(left)
        log.warning("Job tried again: %s", answer.why, extra=self._context() | {"error": code})
        self._journey.end("failed", code)

    def _with_crew(self, work: Callable[[], T]) -> T:
        """The work; however it ends, nothing of the other nodes runs any more then. Raises Failed, Withdrawn, Lost"""
        try:
            done = work()
        except Failed as failure:
            self._dismiss()
            raise Failed(self._crew.verdict(failure.error)) from failure
        except Withdrawn:
            self._dismiss()
            raise
        self._dismiss()
        return done

    def _dismiss(self) -> None:
        self._crew.dismiss()
        self._crew.look()
        while not self._crew.is_gone:
            self._relay.tick()
            time.sleep(TICK_SECONDS / 4)
            self._crew.look()

    def _give_up(self, reason: str) -> None:
        reclaim = self.run.store.attempts.reclaim
        self._metrics.leave_job(self._lease.insist(lambda: reclaim(self.run.job.id, self.run.attempt, None, reason)))
        log.warning("A node was lost: %s", reason, extra=self._context())
        self._journey.end("lost", reason)

    def _go_through_phases(self) -> Mapping[str, Any]:
        """Prepare, then one child after the other; what the last one says it has done."""
        self._journey.begin("inputs")
        self.run = self._meanwhile(self._prepare, heeding=ANY)
        try:
            for index in range(len(self._phases())):
                self._heed(ANY)
                outcome = self._carry_out(index)
                if outcome.type == "stopped":
                    raise Withdrawn(f"stopped at step {outcome.data.get('step')}")
        finally:
            self._early.drop()
        if outcome.type != "done":
            raise Failed({"code": "child_crashed", "message": "the last phase ended without a result"})
        return outcome.data

    def _phases(self) -> list[Phase]:
        with as_failure(self._context()):
            return list(self._work.phases(self.run))

    def _prepare(self) -> Run:
        """Fetch the inputs and write run.json; may take long."""
        run = self.run
        if not self._crew.is_alone and run.artifacts.root is None:
            raise InvalidSpec("several nodes need a storage that is a folder of all of them", field="num_nodes")
        if (found := checkpoints.resume_point(run, self._skip)) is not None:
            latest, place = found
            run = replace(run, resume_from=place)
            of = f" of {latest.job_id}" if latest.job_id != run.job.id else ""
            self._relay.note("message", f"Resuming from the checkpoint of step {latest.step}{of}", step=latest.step)
        elif run.store.checkpoints.list(run.job.project_id, run.job.id):
            text = "Starting from the beginning: no checkpoint holds what a training needs to go on (save_only_model)"
            self._relay.note("message", text, "warning")
        folder.write_run_json(run, self._work.run_json(run))
        return run

    def _skip(self, damaged: Checkpoint, why: str) -> None:
        attempts = self.run.store.attempts
        self._lease.insist(lambda: attempts.skip_checkpoint(self.run.job.id, self.run.attempt, damaged, why))

    def _take_devices(self) -> devices.Taken:
        """Wait until the job's devices are free; its events say who has them."""
        count = int(self.run.job.requires.get("num_devices") or 1)
        holder = {"id": self.run.job.id, "kind": str(self.run.job.kind)}
        said = ""
        while not isinstance(taken := self._early.take(count, holder), devices.Taken):
            self._early.look()
            if str(taken) != said:
                said = str(taken)
                text = Text("Waiting for {count} device(s): {said}", count=count, said=said)
                self._relay.note("message", text, holders=dict(taken.holders))
            self._relay.tick()
            self._heed(ANY)
            time.sleep(TICK_SECONDS)
        return taken

    def _carry_out(self, index: int) -> tail.Line:
        """One child from start to end; its outcome. Raises Failed, Withdrawn."""
        began, num_oom_kills = time.monotonic(), crash.count_oom_kills()
        phase = self._phases()[index]
        self._relay.begin(phase.name)
        folder.write_control(self.run.folder, Wish.NONE.value)
        child = self._start(index)
        try:
            if (early := self._early.start(self.run, self._phases()[index + 1 :])) is not None:
                early.renew(self._lease.renewed_at)
            told = self._accompany(child)
        finally:
            code = _end(child)
            self._relay.child = None
            seconds = time.monotonic() - began
            self._metrics.job_phase_duration.labels(str(self.run.job.kind), phase.name).observe(seconds)
        if self._wish() is Wish.CANCEL:
            raise Withdrawn("cancelled")
        self._relay.drain()
        outcome = self._relay.outcome
        if outcome is not None and outcome.type != "failed":
            return outcome
        if outcome is None and told is not Wish.NONE:
            raise Withdrawn(f"it did not stop by itself within {self._settings.pause_timeout_seconds:g} s")
        if outcome is None and code == keeper.EXPIRED:
            raise Withdrawn("the ledger could not be reached for too long, and its child was ended")
        said = error_of(outcome) if outcome is not None else None
        num_oom_kills = crash.count_oom_kills() - num_oom_kills
        error = crash.explain(self.run.folder, phase.name, code, num_oom_kills, said)
        if code == keeper.ABANDONED and self._crew.is_broken and error["class"] == "ChildFailed":
            error |= {"code": failures.PEER}  # no rank here has failed: all were ended because a node was gone
        raise Failed(error)

    def _start(self, index: int) -> spawn.Kept:
        if not self._phases()[index].needs_devices:
            return self._spawn(index, ())
        taken = self._take_devices()
        try:
            self.run = run = replace(self.run, devices=taken.names)
            self._lease.insist(lambda: run.store.attempts.take_devices(run.job.id, run.attempt, run.devices))
            self.run = replace(run, node=self._gather())
            return self._spawn(index, taken.descriptors)
        finally:
            # The keeper holds them now. With copies of ours a frozen worker would keep the devices from everybody.
            taken.close()

    def _gather(self) -> Node:
        """Wait until the other nodes are ready, and tell them where to meet. Raises Failed, Withdrawn"""
        if self._crew.is_alone:
            return self.run.node
        said = ""
        while not self._crew.is_ready:
            if self._crew.is_broken:
                raise Failed({"code": failures.PEER, "message": "another node is gone"})
            if (late := ", ".join(self._crew.late)) != said:
                said = late
                self._relay.note("message", f"Waiting for node(s): {late}")
            self._relay.tick()
            self._heed(ANY)
            time.sleep(TICK_SECONDS / 2)
            self._crew.look()
        return self._crew.start()

    def _spawn(self, index: int, locks: Sequence[int]) -> spawn.Kept:
        self._relay.tick()  # who lost the lease while it waited must not start a child
        with as_failure(self._context()):
            phase = self._phases()[index]
            child = self._early.begin(self.run, phase) or folder.start(self.run, phase, locks)
            self._relay.child = child
        # The keeper's limit counts from the last good renewal, not from its own start.
        child.renew(self._lease.renewed_at)
        return child

    def _accompany(self, child: spawn.Kept) -> Wish:
        """Until the child is gone: carry its events, tell it what is wanted, end it when it takes too long."""
        told, deadline = Wish.NONE, None
        while child.poll() is None:
            self._relay.tick()
            self._early.look()
            self._crew.look()
            if self._crew.is_broken and deadline is None:
                deadline = time.monotonic() + LAST_WORD_SECONDS
            if (wish := self._wish()) is not told:
                told = wish
                folder.write_control(self.run.folder, wish.value)
                deadline = self._deadline(wish)
            if self._relay.outcome is not None and deadline is None:
                deadline = time.monotonic() + GOODBYE_SECONDS
            if deadline is not None and time.monotonic() >= deadline:
                child.kill()
            with suppress(subprocess.TimeoutExpired):
                child.wait(TICK_SECONDS)
        return told

    def _deadline(self, wish: Wish) -> float | None:
        if wish is Wish.NONE:
            return None
        is_cancel = wish is Wish.CANCEL
        return time.monotonic() + (self._settings.cancel_seconds if is_cancel else self._settings.pause_timeout_seconds)

    def _wish(self) -> Wish:
        if self._lease.wanted is not Wanted.RUN:
            return Wish.CANCEL if self._lease.wanted is Wanted.CANCEL else Wish.PAUSE
        return Wish.SHUTDOWN if self._stopping.is_set() or self._crew.is_leaving else Wish.NONE

    def _heed(self, wishes: frozenset[Wish]) -> None:
        """Where there is no child to tell, stop at once. Raises Withdrawn."""
        if (wish := self._wish()) in wishes:
            raise Withdrawn(wish.value)

    def _meanwhile(self, slow: Callable[[], T], heeding: frozenset[Wish]) -> T:
        """Do something slow in the helper's thread and keep renewing. Raises Failed with what it raises, Withdrawn."""
        future = self._helper.submit(correlation.carried(self._lease.insist), slow)
        while not future.done():
            self._relay.tick()
            self._heed(heeding)
            with suppress(TimeoutError):
                future.exception(timeout=TICK_SECONDS)
        with as_failure(self._context()):
            return future.result()

    def _finish(self, status: Status, finish: Finish | None = None, error: Mapping[str, Any] | None = None) -> None:
        finish = finish or Finish(result={})
        self._lease.insist(
            lambda: self.run.store.attempts.finish(
                self.run.job.id,
                self.run.attempt,
                status=status,
                result=dict(finish.result),
                error=dict(error) if error else None,
                models=finish.models,
                datasets=finish.datasets,
                evaluations=finish.evaluations,
            )
        )
        self._is_over = True
        kind = str(self.run.job.kind)
        spec, seconds = self.run.job.spec, time.monotonic() - self._began
        self._metrics.finish_job(kind, str(status), seconds, error, spec)
        log.info("Job %s", status, extra=self._context() | {"error": (error or {}).get("code")})
        self._journey.end(str(status), str(error.get("code")) if error else "")

    def _withdraw(self, why: str) -> None:
        """What the user wants decides where the job goes."""
        wish = self._wish()
        if wish is Wish.CANCEL:
            self._finish(Status.CANCELLED, finish=self._salvaged())
            return
        status = Status.PAUSED if wish is Wish.PAUSE else Status.QUEUED
        release = self.run.store.attempts.release
        reason = f"worker shutting down; {why}" if wish is Wish.SHUTDOWN else why
        self._lease.insist(lambda: release(self.run.job.id, self.run.attempt, status=status, reason=reason))
        log.info("Job back to %s: %s", status, reason, extra=self._context())
        self._journey.end(str(status))

    def _salvaged(self) -> Finish:
        with suppress(Failed):  # there is an error already, or nobody wants it
            return self._meanwhile(lambda: salvaged(self._work, self.run), heeding=frozenset())
        return Finish(result={})

    def _clean_up(self) -> None:
        self._relay.close()
        self._helper.shutdown(wait=False, cancel_futures=True)
        folder.leave(self.run.folder, is_over=self._is_over)

    def _context(self) -> dict[str, Any]:
        return {"job_id": self.run.job.id, "attempt": self.run.attempt}


def _end(child: spawn.Kept) -> int:
    """Everything of the child is gone when this returns: the next attempt, or the next job, may start."""
    child.kill()
    return child.wait()
