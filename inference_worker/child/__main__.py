"""`python -m inference_worker.child`, in the attempt's folder: the outcome is the last event, whatever happens."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from inference_worker.child.generate import generate
from shared import logs
from shared.attempt import Attempt


def main() -> int:
    attempt = Attempt(Path.cwd())
    logs.begin_child(attempt, "generate")
    try:
        generate(attempt)
    except Exception as error:  # the edge of the process: the worker reads the reason from the events
        logging.getLogger(__name__).exception("The job failed")
        attempt.fail(error)
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # Not sys.exit: it would wait for every answer that is under way, minutes after a cancel.
    os._exit(code)
