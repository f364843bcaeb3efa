"""`torchrun ... -m trainer_worker.child <attempt folder> [--wait]`: one rank of a training, told by run.json. With
`--wait` it was started before its turn: it loads its libraries and says nothing until its turn has come.

Rank 0 answers in events.jsonl; every rank leaves what its libraries print in logs/rank<n>.log, and why it failed in
error-rank<n>.json. Nothing is decided here.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from shared import failures, logs
from shared.attempt import WAIT, Attempt
from trainer_worker.child import lean
from trainer_worker.child.startup import Startup, process_began


def main(folder: Path, *, waits: bool = False) -> int:
    rank = int(os.environ.get("RANK", "0"))
    attempt = Attempt(folder)
    write_log(folder / "logs" / f"rank{rank}.log")
    logs.begin_child(attempt, "train", rank=rank)
    return run(attempt, rank, waits=waits)


def run(attempt: Attempt, rank: int, *, waits: bool = False) -> int:
    try:
        done = train(attempt, rank, Startup(process_began()), waits=waits)
    except Exception as error:
        traceback.print_exc()
        if waits and not attempt.is_its_turn():
            return 1  # another is started when the time has come, and tells why it cannot
        details = numbers(error)
        with suppress(OSError):  # the disk is full: then the worker finds out
            attempt.leave_error(rank, error, **details)
            # That another rank is gone is no outcome: that one knows why, or the launcher does.
            if rank == 0 and failures.code_of(error) != failures.PEER:
                attempt.fail(error, **details)
        # Not raised: what takes the interpreter apart may wait for the other ranks, and they for this one.
        return 1
    if rank == 0:
        attempt.emit(done.pop("type"), **done)
    wait_for_others()
    return 0


def train(attempt: Attempt, rank: int, startup: Startup | None = None, *, waits: bool = False) -> dict[str, Any]:
    """The outcome event. Everything heavy is imported here, so that a broken environment is reported, too. `startup` is
    that of a process of its own, out of which is kept what the training does without."""
    from shared import schema
    from shared.spec import TrainSpec

    spec = schema.from_stored(TrainSpec, attempt.run["spec"])
    if startup is not None:
        lean.hide(lean.beside_training(spec))
    with lean.loading():
        import torch

        from trainer_worker.child.context import Context
        from trainer_worker.child.report import Stopped

        stage = importlib.import_module(f"trainer_worker.child.stages.{spec.tuning.stage}")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    startup = startup or Startup()
    startup.mark("imports")
    if waits:
        attempt.await_turn()
        startup.mark("wait")
    context = Context(
        attempt=attempt, spec=spec, rank=rank, num_processes=num_processes, device=device, startup=startup
    )
    try:
        return {"type": "done", **stage.run(context)}
    except Stopped as stopped:
        return {"type": "stopped", "step": stopped.step, "reason": attempt.control().get("reason", "user")}


def numbers(error: Exception) -> dict[str, Any]:
    """What belongs to the error, where memory did not suffice."""
    if failures.code_of(error) not in failures.MEMORY:
        return {}
    from trainer_worker.child import shortage

    return shortage.numbers(error)


def wait_for_others() -> None:
    """No rank leaves before rank 0 has told the outcome: torchrun ends the others when one ends badly."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()


def leave(code: int) -> NoReturn:
    """End without taking the interpreter apart: gloo's threads were seen to abort a rank there (1 run in 25), after all
    was done."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def write_log(path: Path) -> None:
    """Send this process's output, also that of native code, to a file of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


if __name__ == "__main__":
    leave(main(Path(sys.argv[1]), waits=WAIT in sys.argv[2:]))
