"""A command with an engine: `python -m tests.engine build|run COMMAND...`; without one, what it would use.

In the phase `run` the command starts where published ports are reached.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext

from tests.engine.daemon import EngineMissing
from tests.engine.engine import opened


def main(phase: str, *command: str) -> int:
    with opened() as engine:
        engine.enter("run" if phase == "run" else "build")
        prefix = engine.inside if phase == "run" else ()
        with engine.building() if phase == "build" else nullcontext({}) as told:
            return subprocess.run([*prefix, *command], env={**os.environ, **engine.environment, **told}).returncode


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("build", "run"):
        sys.exit(__doc__)
    try:
        sys.exit(main(*sys.argv[1:]))
    except EngineMissing as missing:
        sys.exit(str(missing))
