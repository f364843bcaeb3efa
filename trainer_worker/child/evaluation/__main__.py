"""`python -m trainer_worker.child.evaluation <attempt folder>`: the evaluation, told by run.json, in events.jsonl."""

from __future__ import annotations

import sys
from pathlib import Path

from shared import logs
from shared.attempt import Attempt, describe
from trainer_worker.child import lean

#: What to change first when the memory does not suffice for one sample.
MEMORY_FIELD = "cutoff_len"


def main(folder: Path) -> int:
    attempt = Attempt(folder)
    try:
        lean.hide(lean.beside_evaluation(attempt.run))
        # Imported here so that a broken environment is reported as a failed job, not as a crash.
        from trainer_worker.child.evaluation.records import Stopped
        from trainer_worker.child.evaluation.run import evaluate
    except Exception as error:
        attempt.fail(error)
        raise
    try:
        attempt.done(**evaluate(attempt))
    except Stopped as stopped:
        attempt.stopped(stopped.step)
    except Exception as error:
        attempt.fail(error, MEMORY_FIELD if "out_of_memory" in describe(error)["code"] else None)
        raise
    return 0


if __name__ == "__main__":
    logs.begin_child(Attempt(Path(sys.argv[1])), "evaluate")
    sys.exit(main(Path(sys.argv[1])))
