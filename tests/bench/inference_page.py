"""docs/benchmarks-inference.md from what was measured."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Protocol

import psutil

from tests.bench.inference_load import Measured
from tests.bench.page import processor

INTRO = """# Benchmarks of inference

Made by `make bench-inference` (`ARGS="--rounds 5"` makes it longer, `ARGS="--only overhead"` shorter); this page is
what its last run wrote. SmolLM2-135M-Instruct in bfloat16 answers questions in {tokens} tokens each, streamed; vLLM,
Tunesmith and LiteLLM's proxy are three ways to one and the same vLLM process. LLaMA Factory's API server runs its own
engine, one answer after another; where it ends an answer early its tokens are fewer. Every round runs all sides, every
second round backwards; medians of the rounds are shown.

- **tokens/s** is of all streams together, from the first request to the last event.
- **First token** is from opening the connection to the first event, of every answer: median and 99th percentile. LLaMA
  Factory's server sends its first event, in which there is no token, before it computes.
- **CPU per token** is the CPU time of the gateway's processes, which on a machine that others use, too, says more than
  the clock does.
"""
FIRST = """## What the gateway adds to the first token

Answers of one token each from the same vLLM, asked for in {count} pairs: directly and through Tunesmith at once after
each other, every second pair the other way round. Added is the difference between the medians of a pair; shown are the
median of the pairs and, in brackets, the middle half of them. Where many ask at once vLLM computes one prompt after
another, and what it takes for that varies by more than any gateway takes.
"""
NOTHING = """## What a gateway takes of its own

Before a server that computes nothing and sends an event every 20 ms in each stream; directly, through Tunesmith's
gateway (a key is checked, the request validated, a replica chosen) and through LiteLLM's proxy.
"""
COLUMNS = ("Streams", "Side", "tokens/s", "first token, p50", "p99", "CPU per token")


class Point(Protocol):
    @property
    def side(self) -> str: ...
    @property
    def streams(self) -> int: ...
    @property
    def measured(self) -> Measured: ...
    @property
    def cpu_ms_per_token(self) -> float: ...


class Pair(Protocol):
    @property
    def streams(self) -> int: ...
    @property
    def direct(self) -> list[float]: ...
    @property
    def ours(self) -> list[float]: ...


class Idle(Protocol):
    @property
    def rss_before_bytes(self) -> int: ...
    @property
    def rss_bytes(self) -> int: ...
    @property
    def first(self) -> list[float]: ...


def text(
    model: Sequence[Point], pairs: Sequence[Pair], overhead: Sequence[Point], idle: Sequence[Idle], *, tokens: int
) -> str:
    parts = [INTRO.format(tokens=tokens), "\n".join(machine())]
    if model:
        parts += ["## Before a model", "\n".join(table(model))]
    if pairs:
        counts = [sum(pair.streams == streams for pair in pairs) for streams in {pair.streams for pair in pairs}]
        parts += [FIRST.format(count=min(counts)), "\n".join(added(pairs))]
    if overhead:
        parts += [NOTHING, "\n".join(table(overhead))]
    parts += [silence(one) for one in idle]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def machine() -> Iterator[str]:
    memory = psutil.virtual_memory().total / 2**30
    yield f"- Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load average {psutil.getloadavg()[0]:.1f} at the end"
    yield f"- Machine: {processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"


def silence(idle: Idle) -> str:
    return (
        f"## 1,000 streams that say nothing\n\nHeld open in one gateway: {idle.rss_bytes / 2**20:.0f} MiB of memory, "
        f"{idle.rss_before_bytes / 2**20:.0f} MiB before them. An answer meanwhile has its first token after "
        f"{at(idle.first, 0.5):.1f} ms (median)."
    )


def table(points: Sequence[Point]) -> Iterator[str]:
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for streams in sorted({point.streams for point in points}):
        here = [point for point in points if point.streams == streams]
        sides = {point.side: [one for one in here if one.side == point.side] for point in here}
        first = next((made for side, made in sides.items() if side in ("vLLM", "direct")), None)
        for side, made in sorted(sides.items(), key=lambda item: item[1] is not first):
            yield row(streams, side, made, first if made is not first else None)


def added(pairs: Sequence[Pair]) -> Iterator[str]:
    yield "| Streams | vLLM, p50 | Tunesmith, p50 | added, p50 | vLLM, p99 | Tunesmith, p99 |"
    yield "|---|---|---|---|---|---|"
    for streams in sorted({pair.streams for pair in pairs}):
        here = [pair for pair in pairs if pair.streams == streams]
        direct = [seconds for pair in here for seconds in pair.direct]
        ours = [seconds for pair in here for seconds in pair.ours]
        yield (
            f"| {streams} | {at(direct, 0.5):.1f} ms | {at(ours, 0.5):.1f} ms | {difference(here)} | "
            f"{at(direct, 0.99):.1f} ms | {at(ours, 0.99):.1f} ms |"
        )


def difference(pairs: Sequence[Pair]) -> str:
    found = sorted(at(pair.ours, 0.5) - at(pair.direct, 0.5) for pair in pairs)
    low, high = found[len(found) // 4], found[(3 * len(found)) // 4]
    return f"{statistics.median(found):+.1f} ms ({low:+.1f} to {high:+.1f})"


def pair_line(number: int, pair: Pair) -> str:
    told = f"directly {at(pair.direct, 0.5):.1f}, through Tunesmith {at(pair.ours, 0.5):.1f} ms"
    return f"{number + 1}: {pair.streams} streams: first token {told}"


def row(streams: int, side: str, made: Sequence[Point], direct: Sequence[Point] | None) -> str:
    speed, p50, p99 = speed_of(made), spread(made, 0.5), spread(made, 0.99)
    cells = [f"{speed:.0f}", f"{p50:.1f} ms", f"{p99:.1f} ms"]
    if direct:
        cells = [
            f"{speed:.0f} ({speed / speed_of(direct):.2f}x)",
            f"{p50:.1f} ms ({p50 - spread(direct, 0.5):+.1f})",
            f"{p99:.1f} ms ({p99 - spread(direct, 0.99):+.1f})",
        ]
    cpu = statistics.median(point.cpu_ms_per_token for point in made)
    cells.append(f"{cpu:.2f} ms" if cpu else "")
    return f"| {streams} | {side} | {' | '.join(cells)} |"


def speed_of(made: Sequence[Point]) -> float:
    return statistics.median(point.measured.tokens_per_second for point in made)


def spread(made: Sequence[Point], share: float) -> float:
    """Of all first tokens of all rounds, milliseconds."""
    return at([seconds for point in made for seconds in point.measured.first], share)


def at(seconds: Sequence[float], share: float) -> float:
    ordered = sorted(seconds)
    return 1e3 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def line(number: int, point: Point) -> str:
    made = point.measured
    told = (
        f"{made.tokens_per_second:.0f} tokens/s, first token {at(made.first, 0.5):.1f} / {at(made.first, 0.99):.1f} ms"
    )
    wrong = f", {len(made.errors)} errors: {made.errors[0][:200]}" if made.errors else ""
    return f"{number + 1}: {point.streams} streams: {point.side}: {told}, {point.cpu_ms_per_token:.2f} ms CPU{wrong}"
