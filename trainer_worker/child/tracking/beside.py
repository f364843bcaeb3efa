"""Starts a job's trackers beside the first rank, and lets them finish when it is done."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from shared import spawn, tracking
from shared.settings import process_environment
from trainer_worker.child.context import Context
from trainer_worker.child.report import Stopped
from trainer_worker.child.tracking.run import CRASHED, FINISHED, LARK, PAUSED, folders

#: Of the Hub, for a Space.
TOKEN = "HF_TOKEN"

#: How long trackers may take to send what they still have: when all is done, when the user waits for a pause or a
#: cancel, when the training has failed.
GOODBYE_SECONDS = {FINISHED: 30.0, PAUSED: 3.0, CRASHED: 3.0}


@contextmanager
def trackers(context: Context) -> Iterator[None]:
    """From the first line to the published model. Other ranks than the first have none."""
    started = start(context) if context.is_first else {}
    ending = CRASHED
    try:
        yield
        ending = FINISHED
    except Stopped:
        ending = PAUSED
        raise
    finally:
        for name in finish(started, ending):
            context.emit("message", f"{name} did not finish in time: its last metrics may be missing", "warning")


def start(context: Context) -> dict[str, subprocess.Popen[bytes]]:
    folder = context.attempt.folder
    started = {}
    for name in context.run.get("tracking", {}).get("trackers", ()):
        command = [sys.executable, "-m", "trainer_worker.child.tracking", str(folder), name]
        env = spawn.environment(own_variables(context, name) | process_environment(*tracking.VARIABLES[name], TOKEN))
        with open(folder / "logs" / f"tracker-{name}.log", "ab") as log:
            started[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env)
    return started


def own_variables(context: Context, name: str) -> dict[str, str]:
    """Where each library keeps what it would keep in the user's home, and what it must not do."""
    kept, scratch = folders(context.run, name)
    trackio = kept if context.spec.tracking.trackio_space_id is None else scratch
    return {
        "mlflow": {
            # Without a server it writes files; MLflow asks whether one means it.
            "MLFLOW_ALLOW_FILE_STORE": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        },
        "swanlab": {"SWANLAB_ROOT": str(scratch), **process_environment(*LARK)},
        "trackio": {"TRACKIO_DIR": str(trackio)},
        "wandb": {
            **{f"WANDB_{place}_DIR": str(scratch) for place in ("CACHE", "CONFIG", "DATA", "ARTIFACT")},
            "WANDB_ERROR_REPORTING": "false",
        },
    }.get(name, {})


def finish(started: dict[str, subprocess.Popen[bytes]], ending: str) -> list[str]:
    """The names of those that had to be killed."""
    for process in started.values():
        # Broken: it has given up already.
        with suppress(BrokenPipeError):
            if process.stdin is not None:
                process.stdin.write(f"{ending}\n".encode())
                process.stdin.close()
    deadline, late = time.monotonic() + GOODBYE_SECONDS[ending], []
    for name, process in started.items():
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            late.append(name)
    return late
