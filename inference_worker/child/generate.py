"""Ask ready replicas for an answer to every row, many at once, and stop where it was wanted to go on later.

One thread per request in flight, one that writes: this one. A row is tried again when its replica went away; what the
replica itself refuses (a prompt longer than the context) is the row's answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from inference_worker.child import rows
from inference_worker.child.answers import Answers
from inference_worker.child.replicas import Replicas
from inference_worker.child.rows import Row
from shared import schema
from shared.attempt import Attempt
from shared.errors import ChildFailed, Unavailable
from shared.spec import GenerateSpec

#: vLLM on two cores still gains from 8 to 32 answers at once; more wait in its own queue.
ROWS_PER_REPLICA = 32
MAX_ROWS_AT_ONCE = 256
#: Without any ready replica the job fails after this long; a deployment of a large model takes minutes to load.
MAX_WAIT_SECONDS = 1800.0
#: A row that brought down its replica this often is given up.
MAX_TRIES = 5
TICK_SECONDS = 0.5
PROGRESS_SECONDS = 5.0


class Stopped(Exception):
    """A pause or a cancel is wanted."""


def generate(attempt: Attempt) -> None:
    spec = schema.from_stored(GenerateSpec, attempt.run["spec"])
    path = Path(attempt.run["dataset"]["path"])
    num_rows = rows.check(path, spec)
    warn(attempt, spec)
    answers, replicas = Answers(attempt), Replicas(attempt.folder)
    try:
        ask_all(attempt, spec, rows.read(path, spec), num_rows, answers, replicas)
    except Stopped:
        answers.save()
        attempt.stopped(step=len(answers.done))
        return
    finally:
        answers.close()
        replicas.close()
    if answers.num_failed == num_rows:
        raise ChildFailed(f"none of the {num_rows} rows could be answered; the errors are in the log")
    attempt.done(
        num_rows=num_rows,
        num_failed=answers.num_failed,
        prompt_tokens=answers.prompt_tokens,
        completion_tokens=answers.completion_tokens,
    )


def warn(attempt: Attempt, spec: GenerateSpec) -> None:
    if spec.template is not None:
        message = f"template {spec.template!r} is not used: answers follow the template of the deployment"
        attempt.emit("finding", message, level="warning", field="template")


def ask_all(
    attempt: Attempt, spec: GenerateSpec, todo: Iterator[Row], num_rows: int, answers: Answers, replicas: Replicas
) -> None:
    """Keep as many rows in flight as the replicas take, until all are answered. Raises Stopped, Unavailable."""
    todo = (row for row in todo if row.custom_id not in answers.done)
    pool = ThreadPoolExecutor(max_workers=MAX_ROWS_AT_ONCE, thread_name_prefix="row")
    flying: dict[Future[tuple[int, Any]], Row] = {}
    told_at = 0.0
    try:
        while len(answers.done) < num_rows:
            heed(attempt)
            num_ready = replicas.num_ready() or await_replica(attempt, spec, replicas)
            while len(flying) < min(MAX_ROWS_AT_ONCE, ROWS_PER_REPLICA * num_ready) and (row := next(todo, None)):
                flying[pool.submit(ask, attempt, spec, row, replicas)] = row
            landed, _ = wait(flying, timeout=TICK_SECONDS, return_when=FIRST_COMPLETED)
            for future in landed:
                answers.add(flying.pop(future).custom_id, *future.result())
            answers.save_if_due()
            if time.monotonic() - told_at > PROGRESS_SECONDS:
                told_at = time.monotonic()
                attempt.emit("progress", done=len(answers.done), total=num_rows, unit="rows")
        attempt.emit("progress", done=num_rows, total=num_rows, unit="rows")
    finally:
        # The process ends soon; answers that are under way are asked for again by the next attempt.
        pool.shutdown(wait=False, cancel_futures=True)


def ask(attempt: Attempt, spec: GenerateSpec, row: Row, replicas: Replicas) -> tuple[int, Any]:
    """Status and body of one row's answer. Raises Stopped, Unavailable."""
    for _ in range(MAX_TRIES):
        heed(attempt)
        if not replicas.num_ready():
            await_replica(attempt, spec, replicas, quiet=True)
        answer = replicas.ask(row.path, dict(row.body))
        if answer is not None:
            try:
                return answer.status_code, answer.json()
            except ValueError:
                return 502, {"error": {"message": answer.text[:1000], "code": "bad_answer"}}
    return 0, {"error": {"message": f"no replica answered in {MAX_TRIES} tries", "code": "upstream_lost"}}


def await_replica(attempt: Attempt, spec: GenerateSpec, replicas: Replicas, quiet: bool = False) -> int:
    """Wait until one is ready; says so once. Raises Stopped, and Unavailable after MAX_WAIT_SECONDS."""
    began = time.monotonic()
    while not (num_ready := replicas.num_ready()):
        if not quiet and time.monotonic() - began >= TICK_SECONDS:
            quiet = True
            message = f"Waiting for a ready replica of {spec.model!r}: deploy it with POST /v1/deployments"
            attempt.emit("message", message, level="warning")
        heed(attempt)
        if time.monotonic() - began > MAX_WAIT_SECONDS:
            raise Unavailable(f"no replica of {spec.model!r} was ready for {MAX_WAIT_SECONDS:.0f} s", field="model")
        time.sleep(TICK_SECONDS)
    return num_ready


def heed(attempt: Attempt) -> None:
    if attempt.wanted() != "run":
        raise Stopped
