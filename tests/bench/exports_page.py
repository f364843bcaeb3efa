"""docs/benchmarks-export.md from what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tests.bench.page import by_side, machine, middle, versions

INTRO = """# Benchmark of the merge

Made by `make bench-export` (`ARGS="--gigabytes 14 --rounds 5"` makes it larger and longer); this page is what its last
run wrote. One adapter (LoRA of rank 16 on every linear layer, float32) is merged into a Llama of random bfloat16
weights, {size:.2f} GB in files of 2 GB, and written in files of 5 GB. Every side is one process, one after another in
one run, every second round backwards. After each round the three outputs are compared: they are equal to the last bit.

- **Seconds** are from the start of the process to its end, imports among them; **to the disk** is until the kernel has
  written all of it.
- **CPU** is the CPU time of the process; on a machine that others use, too, it says more than the clock does.
- **Peak RSS** is the kernel's own count for the process. About 0.5 GB of it is Python with torch, transformers and
  peft, before anything is merged.
- The copy is `cp` of the base's files: what the disk can do.
"""

COLUMNS = ("Side", "seconds", "to the disk, s", "CPU, s", "peak RSS, GB")


class Merged(Protocol):
    side: str
    seconds: float
    synced_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int


def text(made: list[Merged], *, base_bytes: int, trainer: Path, factory: Path) -> str:
    where = [line for line in machine(factory) if not line.startswith("- Tunesmith")]
    where.insert(2, f"- Tunesmith and peft: {versions(trainer)}")
    parts = [INTRO.format(size=base_bytes / 1e9), "\n".join(where), "\n".join(table(made))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def table(made: list[Merged]) -> Iterator[str]:
    return by_side(made, COLUMNS, row, ratios)


VALUES = ("seconds", "synced_seconds", "cpu_seconds", "peak_rss_bytes")


def row(name: str, rounds: list[Merged]) -> str:
    *seconds, rss = (middle(rounds, value) for value in VALUES)
    return f"| {name} | {' | '.join(f'{value:.1f}' for value in seconds)} | {rss / 1e9:.2f} |"


def ratios(first: str, other: str, ours: list[Merged], theirs: list[Merged]) -> str:
    shares = [middle(ours, name) / middle(theirs, name) for name in VALUES]
    return f"| **{first} against {other}** | {' | '.join(f'{share:.2f}x' for share in shares)} |"
