"""What the processes and threads of the contract tests do at the same time."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from shared.job import Kind, Status
from shared.records import NewEvent
from shared.store import Store

T = TypeVar("T")
#: Never within a test that passes.
PATIENCE_SECONDS = 60


def claim_until_none_is_left(database_url: str, worker_id: str, barrier: Any, results: Any) -> None:
    """One worker process: claim, say something, finish, until the queue is empty; report what it was given."""
    got = []
    with Store(database_url) as store:
        barrier.wait(PATIENCE_SECONDS)
        while claim := store.attempts.claim_next(worker_id=worker_id, kinds=[Kind.TRAIN], num_devices=1):
            got.append((claim.job.id, claim.attempt))
            store.attempts.renew(claim.job.id, claim.attempt, events=[NewEvent(type="message", message=worker_id)])
            store.attempts.finish(claim.job.id, claim.attempt, status=Status.SUCCEEDED)
    results.put(got)


def lead_once(database_url: str, worker_id: str, barrier: Any, results: Any) -> None:
    """One worker process among others: look until it leads a job, or has been reserved by another; report which job."""
    with Store(database_url) as store:
        barrier.wait(PATIENCE_SECONDS)
        claim = None
        while claim is None and store.members.reservation(worker_id) is None:
            claim = store.attempts.claim_next(
                worker_id=worker_id, kinds=[Kind.TRAIN], num_devices=1, storage_id="store-1"
            )
    results.put(claim.job.id if claim else None)


def create_the_same(database_url: str, given: dict[str, Any], barrier: Any, results: Any) -> None:
    """One gateway process that gets the same request as the others."""
    with Store(database_url) as store:
        project_id = store.projects.default().id
        barrier.wait(PATIENCE_SECONDS)
        job, created = store.jobs.create(project_id, kind=Kind.TRAIN, spec={"seed": 1}, **given)
        results.put((job.id, created))


def in_processes(target: Callable[..., None], arguments: list[tuple[Any, ...]]) -> list[Any]:
    """Run `target(*arguments, barrier, results)` in one process each, all at once; what they put into results."""
    context = multiprocessing.get_context("forkserver")  # imports once, yet forks no thread of the tests
    context.set_forkserver_preload(["shared.store", __name__])
    barrier, results = context.Barrier(len(arguments)), context.Queue()
    processes = [context.Process(target=target, args=(*given, barrier, results)) for given in arguments]
    for process in processes:
        process.start()
    answers = [results.get(timeout=PATIENCE_SECONDS) for _ in processes]
    for process in processes:
        process.join(PATIENCE_SECONDS)
    return answers


def in_threads(num: int, target: Callable[[int], T]) -> list[T]:
    """`target(0..num-1)` at once; raises what one of them raised."""
    barrier = threading.Barrier(num)

    def together(index: int) -> T:
        barrier.wait(PATIENCE_SECONDS)
        return target(index)

    with ThreadPoolExecutor(num) as pool:
        return list(pool.map(together, range(num)))
