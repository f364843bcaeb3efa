"""`python -m trainer_worker.child.launch <torchrun's arguments>`: torchrun, and beside it how its ranks ended.

torchrun says 1 for everything and tells the exit codes of its ranks in its log only. They come into `exits.json` of the
attempt folder (the last argument), in the order in which torchrun saw the ranks end, so that a rank killed by a signal,
which leaves no word of its own, can be named.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from shared.attempt import EXITS


def main(argv: Sequence[str]) -> int:
    try:
        run.run(run.parse_args(list(argv)))
    except ChildFailedError as error:
        exits = [
            {"rank": rank, "code": failure.exitcode, "seen_at": failure.timestamp}
            for rank, failure in error.failures.items()
        ]
        (Path(argv[-1]) / EXITS).write_text(json.dumps(exits))
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
