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

Answers of {tokens} tokens from one vLLM, asked for in {blocks} blocks of both sides, every second block the other way
round. A prompt takes vLLM 0.1 to 0.2 s here, and many prompts wait for each other: it tells itself when each request
reached it and when the first event left it (an ASGI middleware), and what the client waited beyond that is **outside
vLLM**. Added is what that is more than for clients that ask vLLM directly. Streams ask each at its own time, their
answers being of different length; "at once": all of them ask at the same instant, and again as all answers end.
"""
NOTHING = """## What a gateway takes of its own

Before a server that computes nothing and sends an event every 20 ms in each stream; directly, through Tunesmith's
gateway (a key is checked, the request validated, a replica chosen) and through LiteLLM's proxy.
"""
#: Of an answer whose first token is told (inference_first.py).
FIRST_TOKENS = 8
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


class Ways(Protocol):
    @property
    def side(self) -> str: ...
    @property
    def streams(self) -> int: ...
    @property
    def apart(self) -> bool: ...
    @property
    def whole(self) -> list[float]: ...
    @property
    def outside(self) -> list[float]: ...


class Idle(Protocol):
    @property
    def rss_before_bytes(self) -> int: ...
    @property
    def rss_bytes(self) -> int: ...
    @property
    def first(self) -> list[float]: ...


def text(
    model: Sequence[Point], first: Sequence[Ways], overhead: Sequence[Point], idle: Sequence[Idle], *, tokens: int
) -> str:
    parts = [INTRO.format(tokens=tokens), "\n".join(machine())]
    if model:
        parts += ["## Before a model", "\n".join(table(model))]
    if first:
        blocks = sum(
            (one.side, one.streams, one.apart) == (first[0].side, first[0].streams, first[0].apart) for one in first
        )
        parts += [FIRST.format(blocks=blocks, tokens=FIRST_TOKENS), "\n".join(added(first))]
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


def added(first: Sequence[Ways]) -> Iterator[str]:
    yield "| Streams | Side | Answers | first token, p50 | p99 | outside vLLM, p50 | p99 |"
    yield "|---|---|---|---|---|---|---|"
    sides = list(dict.fromkeys(one.side for one in first))
    for streams, apart in sorted({(one.streams, one.apart) for one in first}, key=lambda case: (case[0], not case[1])):
        direct: list[float] = []
        for side in sides:
            here = [one for one in first if (one.side, one.streams, one.apart) == (side, streams, apart)]
            whole = [seconds for one in here for seconds in one.whole]
            outside = [seconds for one in here for seconds in one.outside]
            told = [f"{at(outside, share):.1f} ms" for share in (0.5, 0.99)]
            if direct:
                less = [at(outside, share) - at(direct, share) for share in (0.5, 0.99)]
                told = [f"{one} ({more:+.1f})" for one, more in zip(told, less, strict=True)]
            direct = direct or outside
            cells = [f"{at(whole, share):.1f} ms" for share in (0.5, 0.99)] + told
            yield f"| {case(streams, apart)} | {side} | {len(whole)} | {' | '.join(cells)} |"


def case(streams: int, apart: bool) -> str:
    return f"{streams}" if apart else f"{streams} at once"


def ways_line(number: int, made: Ways) -> str:
    told = f"first token {at(made.whole, 0.5):.1f} / {at(made.whole, 0.99):.1f} ms"
    beyond = f"outside vLLM {at(made.outside, 0.5):.1f} / {at(made.outside, 0.99):.1f} ms"
    return f"{number + 1}: {case(made.streams, made.apart)}: {made.side}: {told}, {beyond}"


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
