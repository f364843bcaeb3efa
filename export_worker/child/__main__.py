"""`python -m export_worker.child <attempt folder>`: one export, told by run.json and answered in events.jsonl."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from shared import logs
from shared.attempt import Attempt

#: Of an export that holds no device: where a training runs on the same cores, they are the training's first.
NICENESS = 10


def main(folder: Path) -> int:
    attempt = Attempt(folder)
    if not attempt.run["devices"]:
        os.nice(NICENESS)
    try:
        # Imported here so that a broken environment is reported as a failed job, not as a crash.
        from export_worker.child.export import Order, export
        from export_worker.child.failed import VerificationFailed
        from export_worker.child.watch import Stopped, Watch
    except ImportError as error:
        attempt.fail(error)
        return 1
    try:
        if (result := export(Order.from_run(attempt.run), Watch(attempt))) is None:
            attempt.emit("phase_done", "the files are written and compared; vLLM is to load them next")
        else:
            attempt.done(**result)
    except Stopped:
        # An export has no checkpoints: stopped is stopped at the beginning.
        attempt.stopped(0)
    except Exception as error:
        attempt.fail(error, **(error.figures if isinstance(error, VerificationFailed) else {}))
        raise
    return 0


if __name__ == "__main__":
    logs.begin_child(Attempt(Path(sys.argv[1])), "export")
    sys.exit(main(Path(sys.argv[1])))
