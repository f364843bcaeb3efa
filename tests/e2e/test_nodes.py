"""Two workers as two nodes of one attempt: what ends when one of them does.

Both are on this machine, each with a run folder of its own, so that each has a CPU to give away.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.job import Job, Status
from shared.records import Member
from tests.e2e.test_supervision import Platform, wait_for


class Counting(Platform):
    """Workers whose jobs only count, in folders of their own."""

    def node(self, name: str) -> subprocess.Popen[bytes]:
        return self.worker(name, run_dir=str(self.settings.home / name))

    def crew(self, job: Job) -> list[Member]:
        return self.store.members.of(job.id, self.job(job).attempt)

    def wait_running(self, job: Job, attempt: int) -> None:
        wait_for(lambda: self.job(job).attempt == attempt and self.crew(job)[1].status == "running", 60)
        self.wait_step(job, self.job(job).progress.get("step", 0) + 5)


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Counting]:
    platform = Counting(tmp_path / "home")
    try:
        yield platform
    finally:
        platform.close()


def test_no_node_outlives_its_leader_and_one_that_must_end_saves_the_work(counting: Counting) -> None:
    workers = {name: counting.node(name) for name in ("one", "two")}
    wait_for(lambda: len(counting.store.workers.list()) == 2, 60)
    spec = {"schema_version": 1, "steps": 400, "seconds": 0.05}
    job, _ = counting.store.jobs.create(
        counting.project, kind="train", spec=spec, requires={"num_devices": 1, "num_nodes": 2}
    )
    counting.queue.send(job.id, "train")
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
