"""What the gateway adds to the first token of a model's answer.

vLLM's own time for a first token varies by tens of milliseconds and more where many ask at once, so the whole time says
little of what stands before it. Here vLLM itself tells when a request reached it and when its first event left it
(drivers/tap.py); what its client waited beyond that is the way there and back. The ways through the gateway are
compared with those of clients that ask vLLM directly, under the same number of streams, at once after each other.
Streams ask each at its own time, and again so that all of them ask at the same instant, which is the worst for a
gateway: on a full machine it then sends the last one's request after all others.
"""

from __future__ import annotations

import json
import secrets
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from rich.console import Console

from shared.settings import Settings
from tests import platform as platforms
from tests.bench import inference_page, inference_sides
from tests.bench.inference_load import Load, Measured, run
from tests.bench.inference_page import FIRST_TOKENS
from tests.bench.inference_sides import Side
from tests.bench.settings import model_folder
from tests.bench.trainers import get_base

#: Answers of a side in a block, at least: with four blocks a 99th percentile is not the longest one.
ANSWERS = 64


@dataclass(frozen=True, kw_only=True)
class Ways:
    """First tokens of one side under one number of streams, seconds."""

    side: str
    streams: int
    #: Whether the streams ask each at its own time.
    apart: bool
    #: From opening the connection to the first event.
    whole: list[float]
    #: Of it, what was not in vLLM.
    outside: list[float]


def measured(args: Namespace, folder: Path, console: Console) -> list[Ways]:
    get_base(own := Settings.from_env())
    made = platforms.make_platform(folder / "first", log_level="ERROR")
    with ExitStack() as stack:
        tap = folder / "tap.jsonl"
        direct = stack.enter_context(inference_sides.vllm(own, model_folder(own.home), tap, folder))
        made.deploy(direct.model, direct.url, direct.key)
        url = stack.enter_context(platforms.serve(made))
        ours = Side(name="Tunesmith", url=url, key=made.keys["admin"], model=direct.model, extra=direct.extra)
        return list(blocks([direct, ours], args, tap, console))


def blocks(sides: list[Side], args: Namespace, tap: Path, console: Console) -> Iterator[Ways]:
    for number in range(args.blocks):
        # One stream cannot ask at the same instant as others.
        for streams, apart in (case for case in product(args.streams, (True, False)) if case != (1, False)):
            for side in sides if number % 2 == 0 else reversed(sides):
                run(load(side, 2, 1, False))
                made = run(load(side, streams, max(2, ANSWERS // streams), apart))
                yield (found := ways(side, streams, apart, made, read(tap)))
                console.print(inference_page.ways_line(number, found))


def load(side: Side, streams: int, answers: int, apart: bool) -> Load:
    return Load(
        url=side.url, key=side.key, model=side.model, streams=streams, answers=answers, tokens=FIRST_TOKENS,
        apart=apart, users=secrets.token_hex(6), extra=side.extra,
    )  # fmt: skip


def ways(side: Side, streams: int, apart: bool, made: Measured, inside: dict[str, tuple[float, float]]) -> Ways:
    """`inside`: by request, when vLLM had it."""
    whole, outside = [], []
    for user, began, first in made.answers:
        arrived, left = inside[user]
        whole.append(first - began)
        outside.append((arrived - began) + (first - left))
    return Ways(side=side.name, streams=streams, apart=apart, whole=whole, outside=outside)


def read(tap: Path) -> dict[str, tuple[float, float]]:
    return {user: (arrived, left) for user, arrived, left in map(json.loads, tap.read_text().splitlines())}
