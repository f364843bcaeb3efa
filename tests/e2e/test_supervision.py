"""Supervision end to end: real workers, a real broker, a real ledger; the child counts steps instead of training.

What is broken on purpose: the worker (SIGKILL, SIGSTOP, SIGTERM), the child, the broker with all it held.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared import broker, correlation, devices
from shared.attempt import WAIT
from shared.correlation import Origin
from shared.job import MAX_LOST_ATTEMPTS, TERMINAL, Job, Status
from shared.queue import Queue
from shared.settings import Settings
from shared.store import Store
from tests.otlp import Collector, collecting

#: Of the request that makes a job, and of its trace.
REQUEST, TRACE = "req_e2e", "4bf92f3577b34da6a3ce929d0e0e4736"
COUNTING = Path(__file__).parent / "counting"
#: Short, so that the tests are; in the same order as the real ones.
LEASES = {"lease_seconds": 5.0, "keeper_seconds": 3.0, "renew_seconds": 1.0, "sweep_seconds": 1.0}


class Platform:
    """A ledger, a broker, a beat, and workers that come and go."""

    def __init__(self, home: Path, **settings: Any):
        self.settings = Settings(
            home=home,
            broker_url=broker.loopback_url(),
            **{"devices": ["cpu"], "cancel_seconds": 2.0, "pause_timeout_seconds": 20.0, **LEASES, **settings},
        )
        self.store = Store(self.settings.database_url)
        self.store.migrate()
        self.project = self.store.projects.default().id
        self.queue = Queue(self.settings)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.one: subprocess.Popen[bytes] | None = None
        self.redis = self.start_redis()
        self.beat = self.start("shared.beat", "housekeeping", "beat", "-B")

    def start_redis(self) -> subprocess.Popen[bytes]:
        redis = self.popen(broker.command(self.settings), "redis", {})
        wait_for(lambda: self.queue.depth("train") is not None)
        return redis

    def start(self, app: str, queue: str, name: str, *options: str, **settings: str) -> subprocess.Popen[bytes]:
        env = self.settings.environment() | {"TUNESMITH_WORKER_ID": name, "PYTHONPATH": str(COUNTING)}
        env |= {f"TUNESMITH_{key.upper()}": value for key, value in settings.items()}
        argv = [sys.executable, "-m", "celery", "-A", app, "worker", "-Q", queue, "-c", "1", "--pool", "threads"]
        return self.popen([*argv, "--without-gossip", "--without-mingle", "--without-heartbeat", *options], name, env)

    def worker(self, name: str, **settings: str) -> subprocess.Popen[bytes]:
        return self.start("tasks", "train", name, **settings)

    def popen(self, argv: list[str], name: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
        with open(self.settings.home / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | env, cwd=self.settings.home
            )
        self.processes.append(process)
        return process

    def submit(self, **spec: Any) -> Job:
        origin = Origin(request_id=REQUEST, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
        made = {"kind": "train", "spec": {"schema_version": 1, **spec}, "request": origin.envelope()}
        job, _ = self.store.jobs.create(self.project, **made)
        with correlation.bound(**origin.ids()):
            self.queue.send(job.id, "train")
        return job

    def lines(self, log: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]

    def job(self, job: Job) -> Job:
        return self.store.jobs.get(self.project, job.id)

    def wait_step(self, job: Job, step: int) -> None:
        wait_for(lambda: self.job(job).progress.get("step", 0) >= step, 20)

    def wait_end(self, job: Job, seconds: float = 30) -> Job:
        wait_for(lambda: self.job(job).status in TERMINAL, seconds)
        return self.job(job)

    def events(self, job: Job, type: str | None = None) -> list[Any]:
        events = self.store.events.list(self.project, job.id)
        return [event for event in events if type in (None, event.type)]

    @contextmanager
    def ledger_locked(self) -> Iterator[None]:
        """Nobody can write meanwhile, and nobody is in the middle of it."""
        ledger = sqlite3.connect(self.settings.home / "ledger.sqlite3", isolation_level=None, timeout=20)
        ledger.execute("BEGIN IMMEDIATE")
        yield
        ledger.execute("ROLLBACK")
        ledger.close()

    def children(self) -> list[int]:
        """Every process that any child started: all live in their attempt's folder."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                folder = os.readlink(f"/proc/{name}/cwd")
                if folder.startswith(str(self.settings.home)) and "/jobs/" in folder:
                    found.append(int(name))
            except OSError:
                continue
        return found

    def end(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.processes = [other for other in self.processes if other is not process]

    def close(self) -> None:
        for process in reversed(self.processes):
            self.end(process)
        self.store.close()


def wait_for(what: Callable[[], Any], seconds: float = 15.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("platform"))
    try:
        yield platform
    finally:
        platform.close()


@pytest.fixture
def worker(platform: Platform) -> Iterator[subprocess.Popen[bytes]]:
    """Worker "one", the same for as long as it lives; other workers, and every child, are gone after the test."""
    if platform.one is None or platform.one.poll() is not None:
        platform.one = platform.worker("one")
    yield platform.one
    for process in platform.processes:
        if process not in (platform.redis, platform.beat, platform.one):
            platform.end(process)
    assert not platform.children()


def test_a_job_from_wake_up_to_model(platform: Platform) -> None:
    port = str(18200 + os.getpid() % 90)
    with collecting() as collector:
        process = platform.worker("measured", metrics_port=port, otlp_endpoint=collector.url)
        job = platform.submit(steps=60, seconds=0.05)
        check_a_job_from_wake_up_to_model(platform, process, job, port)
    check_its_trace(job, collector)


def check_a_job_from_wake_up_to_model(
    platform: Platform, process: subprocess.Popen[bytes], job: Job, port: str
) -> None:

    platform.wait_step(job, 5)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    assert f'tunesmith_training_step{{job_id="{job.id}",' in metrics
    assert [worker.id for worker in platform.store.workers.list()] == ["measured"]
    ended = platform.wait_end(job)

    assert ended.status == Status.SUCCEEDED, ended.error
    assert ended.result == {"num_steps": 60, "model": f"counted:{job.id}"}
    assert ended.progress["step"] == 60
    assert [event.data["step"] for event in platform.events(job, "metrics")] == list(range(1, 61))
    assert [event.data["phase"] for event in platform.events(job, "phase")] == ["prepare", "train"]
    assert [c.step for c in platform.store.checkpoints.list(platform.project, job.id)] == [10, 20, 30, 40, 50, 60]
    assert platform.events(job)[-1].type == "done"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    assert job.id not in metrics
    assert 'tunesmith_jobs_finished_total{kind="train",status="succeeded"} 1.0' in metrics
    assert not platform.children()
    ids = {"request_id": REQUEST, "trace_id": TRACE, "job_id": job.id}
    told = platform.lines(platform.settings.home / "measured.log")
    told += platform.lines(platform.settings.run_dir / "jobs" / job.id / "attempts" / "1" / "logs" / "train.log")
    said = [line["message"] for line in told if ids.items() <= line.items()]
    assert said == ["Woken for a job", "Claimed train job", "Job succeeded", "Child began"]
    platform.end(process)
    assert platform.store.workers.list() == []


def check_its_trace(job: Job, collector: Collector) -> None:
    """All below the span of the request that made it; the worker has ended and told everything."""
    claim, attempt, *phases = collector.trace(TRACE)
    assert [claim.name, attempt.name] == ["claim", "attempt"]
    assert claim.parent == attempt.parent == "00f067aa0ba902b7"
    assert {"job_id": job.id, "attempt": 1, "status": "succeeded"}.items() <= attempt.attributes.items()
    assert attempt.attributes["waited_seconds"] >= 0 and not attempt.is_error
    assert [phase.name for phase in phases] == ["inputs", "prepare", "train", "publish"]
    assert {phase.parent for phase in phases} == {attempt.span_id}
    assert phases[2].events == ("checkpoint",) * 6 and phases[2].ended - phases[2].began > 2e9
    assert attempt.ended >= phases[-1].ended >= phases[2].ended


def test_a_killed_workers_job_goes_on_from_its_checkpoint(platform: Platform, worker: subprocess.Popen[bytes]) -> None:
    job = platform.submit(steps=100, seconds=0.05)
    platform.wait_step(job, 20)
    platform.worker("two")
    platform.wait_step(job, 45)
    assert platform.children()

    worker.kill()

    wait_for(lambda: not platform.children(), 2)
    assert devices.free(platform.settings.run_dir, ["cpu"])
    resumed_from = max(each.step for each in platform.store.checkpoints.list(platform.project, job.id))
    ended = platform.wait_end(job)
    assert (ended.status, ended.attempt, ended.worker_id) == (Status.SUCCEEDED, 2, "two")
    redone = [event.data["step"] for event in platform.events(job, "metrics") if event.attempt == 2]
    assert redone[0] == resumed_from + 1 > 20
    assert redone[-1] == 100
    current = [event.data["step"] for event in platform.events(job, "metrics") if not event.superseded]
    assert current == list(range(1, 101))


def test_a_frozen_worker_loses_its_job_and_writes_nothing_after(
    platform: Platform, worker: subprocess.Popen[bytes]
) -> None:
    job = platform.submit(steps=120, seconds=0.05)
    platform.wait_step(job, 5)
    second = platform.worker("two")
    platform.wait_step(job, 15)

    with platform.ledger_locked():  # or it might be frozen with the lock, which SQLite would never get back
        worker.send_signal(signal.SIGSTOP)
    wait_for(lambda: not platform.children(), LEASES["keeper_seconds"] + 2)
    assert platform.job(job).attempt == 1, "the child must be gone before the job is given away"
    wait_for(lambda: platform.job(job).attempt == 2, 20)
    worker.send_signal(signal.SIGCONT)
    ended = platform.wait_end(job)

    assert (ended.status, ended.attempt) == (Status.SUCCEEDED, 2)
    since = next(event.number for event in platform.events(job) if event.attempt == 2)
    assert all(event.attempt == 2 for event in platform.events(job) if event.number >= since)
    platform.end(second)
    again = platform.submit(steps=3)
    assert platform.wait_end(again).worker_id == "one", "the worker that lost it works on"


def test_cancel_of_a_child_that_does_not_listen(platform: Platform, worker: subprocess.Popen[bytes]) -> None:
    job = platform.submit(steps=10_000, seconds=0.05, deaf=True)
    platform.wait_step(job, 5)
    asked_at = time.monotonic()

    platform.store.jobs.cancel(platform.project, job.id)
    ended = platform.wait_end(job, 10)

    assert ended.status == Status.CANCELLED
    assert time.monotonic() - asked_at < 10
    assert not platform.children()
    assert devices.free(platform.settings.run_dir, ["cpu"])


def test_a_child_that_listens_is_cancelled_at_once(platform: Platform, worker: subprocess.Popen[bytes]) -> None:
    job = platform.submit(steps=10_000, seconds=0.05)
    platform.wait_step(job, 5)

    platform.store.jobs.cancel(platform.project, job.id)

    assert platform.wait_end(job, 5).status == Status.CANCELLED


def test_pause_and_resume(platform: Platform, worker: subprocess.Popen[bytes]) -> None:
    job = platform.submit(steps=60, seconds=0.05, save_steps=1000)
    platform.wait_step(job, 10)

    platform.store.jobs.pause(platform.project, job.id)
    wait_for(lambda: platform.job(job).status == Status.PAUSED)
    assert not platform.children()
    platform.store.jobs.resume(platform.project, job.id)
    ended = platform.wait_end(job)

    assert (ended.status, ended.attempt) == (Status.SUCCEEDED, 2)
    assert [event.data["step"] for event in platform.events(job, "metrics")] == list(range(1, 61))


def test_a_worker_that_ends_hands_its_job_on_also_while_the_broker_is_away(
    platform: Platform, worker: subprocess.Popen[bytes]
) -> None:
    job = platform.submit(steps=120, seconds=0.05, save_steps=1000)
    platform.wait_step(job, 10)
    platform.redis.kill()
    platform.redis.wait()
    time.sleep(2.5)  # Celery's own heartbeat, every 2 s, would wait for the broker for ever

    platform.end(worker)
    assert worker.returncode == 0, "it ended by itself"
    platform.redis = platform.start_redis()
    queued = platform.job(job)
    assert (queued.status, queued.lost_attempts) == (Status.QUEUED, 0)
    platform.worker("two")
    ended = platform.wait_end(job)

    assert (ended.status, ended.attempt) == (Status.SUCCEEDED, 2)
    assert [event.data["step"] for event in platform.events(job, "metrics")] == list(range(1, 121))


@pytest.mark.parametrize(("seconds", "attempts"), [("20", 1), pytest.param("0.5", 2, marks=pytest.mark.slow)])
def test_a_worker_that_ends_may_finish_its_job_and_begins_no_other(
    platform: Platform, worker: subprocess.Popen[bytes], seconds: str, attempts: int
) -> None:
    platform.end(worker)
    leaving = platform.worker("leaving", finish_seconds=seconds)
    job, next_one = platform.submit(steps=40, seconds=0.05), platform.submit(steps=1)
    wait_for(lambda: platform.job(job).progress.get("step"), 40)

    leaving.terminate()
    leaving.wait(40)

    assert platform.job(next_one).status == Status.QUEUED
    platform.worker("staying")
    assert [platform.wait_end(each).status for each in (job, next_one)] == [Status.SUCCEEDED] * 2
    assert platform.job(job).attempt == attempts


def test_the_broker_comes_back_empty_in_the_middle_of_a_job(
    platform: Platform, worker: subprocess.Popen[bytes]
) -> None:
    job = platform.submit(steps=80, seconds=0.05)
    waiting = platform.submit(steps=3)
    platform.wait_step(job, 10)

    platform.redis.kill()
    platform.redis.wait()
    platform.processes.remove(platform.redis)
    shutil.rmtree(platform.settings.home / "broker")
    began = time.monotonic()
    lost = platform.submit(steps=4)  # nobody can be woken now
    assert time.monotonic() - began < 3
    time.sleep(1)
    platform.redis = platform.start_redis()

    for each in (job, waiting, lost):
        ended = platform.wait_end(each)
        assert (ended.status, ended.attempt) == (Status.SUCCEEDED, 1)
    after = platform.submit(steps=3)
    assert platform.wait_end(after).status == Status.SUCCEEDED


def test_a_job_whose_message_was_lost_is_found_by_the_sweep(
    platform: Platform, worker: subprocess.Popen[bytes]
) -> None:
    wait_for(lambda: any(one.id == "one" for one in platform.store.workers.list()))
    time.sleep(1)

    job, _ = platform.store.jobs.create(platform.project, kind="train", spec={"schema_version": 1, "steps": 2})

    assert platform.wait_end(job).status == Status.SUCCEEDED


def test_a_ledger_that_is_away_for_too_long_costs_the_child_and_nothing_else(
    platform: Platform, worker: subprocess.Popen[bytes]
) -> None:
    job = platform.submit(steps=140, seconds=0.05)
    platform.wait_step(job, 15)

    with platform.ledger_locked():
        wait_for(lambda: not platform.children(), LEASES["keeper_seconds"] + 2)
    ended = platform.wait_end(job)

    assert (ended.status, ended.attempt, ended.lost_attempts) == (Status.SUCCEEDED, 2, 0)
    current = [event.data["step"] for event in platform.events(job, "metrics") if not event.superseded]
    assert current == list(range(1, 141))


def test_failures_say_what_went_wrong(platform: Platform, worker: subprocess.Popen[bytes]) -> None:
    crashed = platform.submit(steps=10, wrong="crash", wrong_at=3)
    raised = platform.submit(steps=10, wrong="raise", wrong_at=3)

    error = platform.wait_end(crashed).error
    assert error is not None
    assert error["code"] == "child_crashed"
    assert "SIGSEGV" in error["message"]
    assert "about to go wrong" in error["message"]
    error = platform.wait_end(raised).error
    assert error is not None
    assert (error["class"], error["message"], error["field"]) == (
        "ValueError",
        "the loss is not a number",
        "learning_rate",
    )
    assert platform.job(raised).status == Status.FAILED


def test_a_job_that_is_tried_again_until_it_fails_is_counted_as_failed(
    platform: Platform, worker: subprocess.Popen[bytes]
) -> None:
    platform.end(worker)
    port = str(18300 + os.getpid() % 90)
    platform.worker("counted", metrics_port=port)
    job = platform.wait_end(platform.submit(steps=10, wrong="kill", wrong_at=3))
    assert job.error is not None and (job.attempt, job.error["code"]) == (MAX_LOST_ATTEMPTS, "child_killed")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    assert 'tunesmith_jobs_finished_total{kind="train",status="failed"} 1.0' in metrics
    assert 'tunesmith_jobs_failed_total{code="child_killed",kind="train"} 1.0' in metrics


def test_two_workers_of_one_machine_take_turns_on_its_cpu(platform: Platform, worker: subprocess.Popen[bytes]) -> None:
    platform.worker("two")
    wait_for(lambda: len(platform.store.workers.list()) == 2)
    jobs = [platform.submit(steps=25, seconds=0.04) for _ in range(2)]

    ended = sorted((platform.wait_end(job) for job in jobs), key=lambda job: job.finished_at or job.created_at)

    trained = [[e.created_at for e in platform.events(job, "metrics")] for job in ended]
    assert max(trained[0]) < min(trained[1])


def test_a_child_is_started_early_and_waits_without_a_device(
    platform: Platform, worker: subprocess.Popen[bytes]
) -> None:
    settings = platform.settings
    for is_cancelled in (False, True):
        job = platform.submit(steps=40, prepare_seconds=3)
        wait_for(lambda: waiting(platform))
        [early] = waiting(platform)
        assert devices.free(settings.run_dir, ["cpu"]) == ["cpu"]
        if is_cancelled:
            platform.store.jobs.cancel(platform.project, job.id)
        else:
            platform.wait_step(job, 1)
            assert waiting(platform) == [early]
            assert not devices.free(settings.run_dir, ["cpu"])
        ended = platform.wait_end(job)

        assert ended.status == (Status.CANCELLED if is_cancelled else Status.SUCCEEDED)
        assert not platform.children()


def waiting(platform: Platform) -> list[int]:
    """Children that were started before their turn."""
    argv = {pid: arguments(pid) for pid in platform.children()}
    return [pid for pid, given in argv.items() if WAIT.encode() in given and not given[3].endswith(b"keeper.py")]


def arguments(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def test_a_job_prepares_without_a_device_and_then_waits_for_who_has_it(
    platform: Platform, worker: subprocess.Popen[bytes]
) -> None:
    run_dir = platform.settings.run_dir
    wait_for(lambda: devices.free(run_dir, ["cpu"]))
    taken = devices.take(run_dir, ["cpu"], 1, {"id": "ftjob-other", "kind": "train"})
    assert isinstance(taken, devices.Taken)

    job = platform.submit(steps=3, prepare_seconds=2)

    wait_for(platform.children)  # claimed, as it requires no device, and preparing holds none
    said = "Waiting for 1 device(s): cpu is held by ftjob-other"
    wait_for(lambda: said in [event.message for event in platform.events(job, "message")])
    assert not platform.children()
    wait_for(lambda: cpu_holder(platform) == {"id": "ftjob-other", "kind": "train"})
    taken.close()
    assert platform.wait_end(job).status == Status.SUCCEEDED
    [attempt] = platform.store.attempts.list(job.project_id, job.id)
    assert attempt.devices == ["cpu"]
    wait_for(lambda: cpu_holder(platform) is None)


def cpu_holder(platform: Platform) -> dict[str, str] | None:
    """Who has the CPU, as the worker reports it."""
    [worker] = [worker for worker in platform.store.workers.list() if worker.id == "one"]
    [device] = worker.machine["devices"]
    return device["held_by"] and dict(device["held_by"])
