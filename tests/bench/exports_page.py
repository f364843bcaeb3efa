"""docs/benchmarks-export.md from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tests.bench.page import machine, versions

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
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    sides = {one.side: [other for other in made if other.side == one.side] for one in made}
    for side, rounds in sides.items():
        yield row(f"**{side}**", rounds)
    first = next(iter(sides))
    for side, rounds in list(sides.items())[1:]:
        shares = [middle(sides[first], name) / middle(rounds, name) for name in VALUES]
        yield f"| **{first} against {side}** | {' | '.join(f'{share:.2f}x' for share in shares)} |"
    for number in range(max(map(len, sides.values()))):
        for side, rounds in sides.items():
            yield row(f"{side}, round {number + 1}", [rounds[number]])


VALUES = ("seconds", "synced_seconds", "cpu_seconds", "peak_rss_bytes")


def row(name: str, rounds: list[Merged]) -> str:
    *seconds, rss = (middle(rounds, value) for value in VALUES)
    return f"| {name} | {' | '.join(f'{value:.1f}' for value in seconds)} | {rss / 1e9:.2f} |"


def middle(rounds: list[Merged], name: str) -> float:
    return float(statistics.median(getattr(one, name) for one in rounds))
