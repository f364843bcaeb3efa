"""`python merge_streamed.py BASE ADAPTER OUT`: the first step of an export, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from export_worker.child.carry import carry_over
from export_worker.child.merge import merge
from export_worker.child.source import Source
from export_worker.child.watch import Watch


class Silent:
    """An attempt that nobody follows."""

    def emit(self, type: str, message: str = "", level: str = "info", **data: object) -> None:
        """Nobody reads it."""

    def wanted(self) -> str:
        return "run"


if __name__ == "__main__":
    base, adapter, out = map(Path, sys.argv[1:])
    out.mkdir()
    source = Source(model=base, adapters=(adapter,))
    merged = merge(source, out, max_shard_gb=5, watch=Watch(Silent()))
    assert merged.method == "streamed"
    carry_over(source, out, differs=merged.differs)
