"""Two workers as two nodes of one attempt: what ends when one of them does, and real training with ZeRO-3 over both.

Both are on this machine, each with a run folder of its own, so that each has a CPU to give away.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared import interpreters, schema
from shared.job import Job, Status
from shared.member import Member
from shared.settings import Settings
from shared.spec import TrainSpec
from tests.e2e.test_supervision import Platform, wait_for

ROOT = Path(__file__).resolve().parents[2]
LEASES = {"lease_seconds": 10.0, "keeper_seconds": 6.0}
SPEC = {
    "model_name_or_path": "tiny", "dataset": ["rows.json"], "learning_rate": 1e-3, "max_steps": 80, "logging_steps": 1,
    "save_steps": 20, "cutoff_len": 128, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
}  # fmt: skip
#: The same batches of four samples, two on each node.
PAIR = {"num_nodes": 2, "num_processes": 1, "per_device_train_batch_size": 2, "zero_stage": 3}


class Counting(Platform):
    """Workers whose jobs only count, in folders of their own."""

    def node(self, name: str) -> subprocess.Popen[bytes]:
        return self.worker(name, run_dir=str(self.settings.home / name))

    def pair(self, **spec: Any) -> Job:
        """A job for two nodes."""
        requires = {"num_devices": 1, "num_nodes": 2}
        spec = {"schema_version": 1, "seconds": 0.05, **spec}
        job, _ = self.store.jobs.create(self.project, kind="train", spec=spec, requires=requires)
        self.queue.send(job.id, "train")
        return job

    def crew(self, job: Job) -> list[Member]:
        return self.store.members.of(job.id, self.job(job).attempt)

    def wait_running(self, job: Job, attempt: int) -> None:
        wait_for(lambda: self.job(job).attempt == attempt and self.crew(job)[1].status == "running", 60)
        self.wait_step(job, self.job(job).progress.get("step", 0) + 5)


class Nodes(Platform):
    """Workers that train, in folders of their own."""

    def trainer(self, name: str) -> subprocess.Popen[bytes]:
        return self.start("trainer_worker.tasks", "train", name, run_dir=str(self.settings.home / name))

    def train(self, **changes: Any) -> Job:
        wire = schema.to_wire(schema.load(TrainSpec, SPEC | changes))
        requires = {"num_devices": 1, "num_nodes": changes.get("num_nodes", 1)}
        job, _ = self.store.jobs.create(self.project, kind="train", spec=wire, requires=requires)
        self.queue.send(job.id, "train")
        return job

    def losses(self, job: Job) -> list[float]:
        told = [event for event in self.events(job, "metrics") if not event.superseded and "loss" in event.data]
        assert [event.data["step"] for event in told] == list(range(1, len(told) + 1))
        return [event.data["loss"] for event in told]


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Counting]:
    # Of those that other tests have, two busy cores make an attempt lose one now and then.
    platform = Counting(tmp_path / "home", lease_seconds=6.0, keeper_seconds=4.0)
    try:
        yield platform
    finally:
        platform.close()


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    root = tmp_path / "import"
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests/child'); import training as t; "
        "t.make_model(Path(sys.argv[1]) / 'tiny'); t.make_dataset(Path(sys.argv[1]) / 'rows.json')"
    )
    python = interpreters.trainer(Settings())
    root.mkdir()
    subprocess.run([python, "-c", code, str(root)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    platform = Nodes(tmp_path / "home", import_roots=[root], hub=False, trainer_python=python, **LEASES)
    try:
        yield platform
    finally:
        platform.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nodes_learn_what_one_learns_and_go_on_after_one_was_killed(platform: Nodes) -> None:
    workers = {name: platform.trainer(name) for name in ("one", "two")}
    wait_for(lambda: len(platform.store.workers.list()) == 2, 60)
    pair = platform.train(**PAIR)
    wait_for(lambda: platform.store.checkpoints.list(platform.project, pair.id), 400)
    crew = platform.store.members.of(pair.id, 1)
    assert [(member.node_rank, member.status) for member in crew] == [(0, "started"), (1, "running")]

    survivor, lost = (member.worker_id for member in crew)
    workers[lost].kill()
    wait_for(lambda: platform.job(pair).status == Status.QUEUED, 30)
    assert not platform.children(), "whatever ran on either node is gone before the next attempt"
    platform.trainer("three")

    ended = platform.wait_end(pair, 500)
    assert (ended.status, ended.attempt) == (Status.SUCCEEDED, 2), ended.error
    crew = platform.store.members.of(pair.id, 2)
    assert {member.worker_id for member in crew} == {survivor, "three"} and crew[1].status == "ended"
    again = [event.data["step"] for event in platform.events(pair, "metrics") if event.attempt == 2]
    assert again[0] > 20, "it goes on from the checkpoint that both nodes wrote"
    alone = platform.train()
    assert platform.wait_end(alone, 300).status == Status.SUCCEEDED
    assert platform.losses(pair) == pytest.approx(platform.losses(alone), rel=1e-3)


def test_no_node_outlives_its_leader_and_one_that_must_end_saves_the_work(counting: Counting) -> None:
    workers = {name: counting.node(name) for name in ("one", "two")}
    wait_for(lambda: len(counting.store.workers.list()) == 2, 60)
    job = counting.pair(steps=400)
    counting.wait_running(job, 1)
    assert len(counting.children()) >= 4, "a child and what it started on each node"

    workers[counting.crew(job)[0].worker_id].kill()

    wait_for(lambda: counting.job(job).status == Status.QUEUED, 30)
    assert not counting.children(), "the other node's child is gone before the job is given away"
    workers["three"] = counting.node("three")
    counting.wait_running(job, 2)
    counting.end(workers[counting.crew(job)[1].worker_id])
    queued = counting.job(job)
    assert (queued.status, queued.lost_attempts) == (Status.QUEUED, 0)
    assert not counting.children()
    saved = max(point.step for point in counting.store.checkpoints.list(counting.project, job.id))
    counting.node("four")
    counting.wait_running(job, 3)
    first = next(event.data["step"] for event in counting.events(job, "metrics") if event.attempt == 3)
    assert first == saved + 1
    counting.store.jobs.cancel(counting.project, job.id)
    assert counting.wait_end(job, 20).status == Status.CANCELLED
    wait_for(lambda: all(member.status == "ended" for member in counting.crew(job)[1:]))
    assert not counting.children()

    crashed = counting.pair(steps=10_000, wrong="crash", wrong_at=3, wrong_node="node1")
    error = counting.wait_end(crashed, 60).error
    assert error is not None and error["code"] == "child_crashed"
    assert error["message"].startswith(f"node 1 ({counting.crew(crashed)[1].worker_id}): ")
    assert "SIGSEGV" in error["message"] and "about to go wrong" in error["message"], "its own last lines"
    assert not counting.children()
