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
from trainer_worker.child.tracking.run import CRASHED, FINISHED, GIVEN_UP, LARK, PAUSED, STARTED, folders

#: Of the Hub, for a Space.
TOKEN = "HF_TOKEN"

#: How long trackers may take to send what they still have: when all is done, when the user waits for a pause or a
#: cancel, when the training has failed.
GOODBYE_SECONDS = {FINISHED: 30.0, PAUSED: 3.0, CRASHED: 3.0}
#: One that has not reached its server in this time since its start will hardly do so now: it gets the second.
START_SECONDS, UNSTARTED_SECONDS = 60.0, 5.0
#: When all is done, of those that only write files: they wait for nobody, but for the processor.
LOCAL_SECONDS = 120.0
LOOK_SECONDS = 0.05
#: A tracker's process, and when it was started.
Started = tuple[subprocess.Popen[bytes], float]


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
        for name in finish(context, started, ending):
            context.emit("message", f"{name} did not finish in time: its last metrics may be missing", "warning")


def start(context: Context) -> dict[str, Started]:
    folder = context.attempt.folder
    started: dict[str, Started] = {}
    for name in context.run.get("tracking", {}).get("trackers", ()):
        command = [sys.executable, "-m", "trainer_worker.child.tracking", str(folder), name]
        env = spawn.environment(own_variables(context, name) | process_environment(*tracking.VARIABLES[name], TOKEN))
        with open(folder / "logs" / f"tracker-{name}.log", "ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env)
        started[name] = process, time.monotonic()
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


def finish(context: Context, started: dict[str, Started], ending: str) -> list[str]:
    """The names of those that had to be killed with something left to send."""
    for process, _ in started.values():
        # Broken: it has given up already.
        with suppress(BrokenPipeError):
            if process.stdin is not None:
                process.stdin.write(f"{ending}\n".encode())
                process.stdin.close()
    began, late = time.monotonic(), []
    for name, (process, started_at) in started.items():
        scratch = folders(context.run, name)[1]
        most = patience(context, name, ending, (scratch / STARTED).exists(), began - started_at)
        while process.poll() is None and time.monotonic() - began < most and not (scratch / GIVEN_UP).exists():
            time.sleep(LOOK_SECONDS)
        if process.poll() is None:
            process.kill()
            process.wait()
            late += [] if (scratch / GIVEN_UP).exists() else [name]
    return late


def patience(context: Context, name: str, ending: str, has_started: bool, age_seconds: float) -> float:
    """How long a tracker may still take, seconds."""
    most = GOODBYE_SECONDS[ending]
    if name not in context.run["tracking"]["remote"]:
        return LOCAL_SECONDS if ending == FINISHED else most
    return most if has_started else min(most, max(UNSTARTED_SECONDS, START_SECONDS - age_seconds))
