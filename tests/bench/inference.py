"""`make bench-inference`: SmolLM2-135M answers through vLLM directly, the gateway, LiteLLM's proxy and LLaMA Factory's
API server, in turn in one run; writes docs/benchmarks-inference.md.

The gateway, LiteLLM and the direct side ask the very same vLLM process. Every round runs all sides, every second round
backwards. What the gateway adds to the first token is told by a vLLM that says when it had each request
(inference_first.py). What a gateway takes of its own is measured again before a server that computes nothing, and so is
the memory of 1,000 streams that say nothing. `--rounds N`, `--blocks N`, `--tokens N`, `--streams 1,8`, `--only first`
and `--without litellm` make it shorter. A benchmark is not a test: it fails only where a server does.
"""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from rich.console import Console

from gateway.cli.client import Client, wait_deployment
from gateway.demo import base
from gateway.demo.platform import Platform
from shared.settings import Settings
from shared.store import Store
from tests import platform as platforms
from tests.bench import inference_first, inference_page, inference_sides
from tests.bench.inference_load import Load, Measured, run
from tests.bench.inference_sides import ROOT, Side, of_vllm
from tests.bench.settings import model_folder
from tests.bench.trainers import get_base, llama_factory

NAME = "bench-inference"
NUM_IDLE = 1000
PARTS = ("overhead", "first", "model")
#: Events of an answer that costs nothing, and their pace: 32 streams of it are 1,600 events a second.
INSTANT_TOKENS, INSTANT_PACE_MS = 64, 20.0


@dataclass(frozen=True, kw_only=True)
class Point:
    """One side under one number of streams in one round."""

    side: str
    streams: int
    measured: Measured
    #: Of the gateway's processes for each token; 0: not told.
    cpu_ms_per_token: float


@dataclass(frozen=True, kw_only=True)
class Idle:
    side: str
    rss_before_bytes: int
    rss_bytes: int
    #: First events of answers meanwhile, seconds.
    first: list[float]


def main() -> int:
    parser = ArgumentParser(prog="make bench-inference", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of all sides")
    parser.add_argument("--blocks", type=int, default=4, help="of short answers, of vLLM and Tunesmith")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--streams", default="1,8,32", help="at once")
    parser.add_argument("--without", action="append", default=[], choices=("litellm", "llamafactory"), help="a side")
    parser.add_argument("--only", choices=PARTS, help="one of the parts")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks-inference.md", help="the page")
    args = parser.parse_args()
    args.streams = [int(count) for count in args.streams.split(",")]
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    has_litellm = "litellm" not in args.without and inference_sides.make_litellm()
    parts = {args.only} if args.only else set(PARTS)
    with TemporaryDirectory(prefix="tunesmith-bench-") as name:
        told = args, Path(name), has_litellm, console
        overhead, idle = before_nothing(*told) if "overhead" in parts else ([], [])
        first = inference_first.measured(args, Path(name), console) if "first" in parts else []
        model = before_vllm(*told) if "model" in parts else []
    args.out.write_text(inference_page.text(model, first, overhead, idle, tokens=args.tokens))
    console.print(f"Written: {args.out}")
    return 0


def before_vllm(args: Namespace, folder: Path, has_litellm: bool, console: Console) -> list[Point]:
    own = Settings.from_env()
    get_base(own)
    platform = Platform(own)
    try:
        with platform.ensure() as client, ExitStack() as stack:
            direct, ours = deployed(client, own)
            sides = [direct, ours]
            if has_litellm:
                sides.append(stack.enter_context(inference_sides.litellm(direct.url, direct.key, NAME, folder)))
            if "llamafactory" not in args.without:
                factory = inference_sides.llama_factory(llama_factory(console), model_folder(own.home), folder)
                sides.append(stack.enter_context(factory))
            points = list(rounds(sides, args, console, {1: 8}))
            client.delete(f"/v1/deployments/{NAME}")
            return points
    finally:
        if platform.is_ours:
            platform.stop()


def deployed(client: Client, own: Settings) -> tuple[Side, Side]:
    """The replica itself, and the gateway before it."""
    if base.NAME not in {model["id"] for model in client.get("/v1/models")["data"]}:
        client.post("/v1/models", {"name": base.NAME, "model_name_or_path": base.NAME})
    client.post("/v1/deployments", {"model": base.NAME, "name": NAME, "max_model_len": 2048})
    wait_deployment(client, NAME)
    store = Store(own.database_url)
    [replica] = store.deployments.get(store.projects.default().id, NAME).replicas
    store.close()
    direct = Side(
        name="vLLM",
        url=str(replica.url),
        key=str(replica.api_key),
        model=replica.served_name,
        extra=of_vllm(),
    )
    url = f"http://{own.host}:{own.port}"
    ours = Side(
        name="Tunesmith",
        url=url,
        key=str(client.key),
        model=NAME,
        processes=listening(own.port),
        extra=of_vllm(),
    )
    return direct, ours


def before_nothing(
    args: Namespace, folder: Path, has_litellm: bool, console: Console
) -> tuple[list[Point], list[Idle]]:
    """What gateways take of their own, and what 1,000 open streams take of their memory."""
    made = platforms.make_platform(folder / "home", log_level="ERROR")
    with ExitStack() as stack:
        paced = stack.enter_context(inference_sides.instant(INSTANT_TOKENS, INSTANT_PACE_MS))
        silent = stack.enter_context(inference_sides.instant(1, 0.0, idle=True))
        for name, address in (("paced", paced), ("silent", silent)):
            made.deploy(name, address, max_concurrent_requests=5000)
        url = stack.enter_context(platforms.serve(made))
        processes = listening(int(url.rpartition(":")[2]))
        ours = Side(name="Tunesmith", url=url, key=made.keys["admin"], model="paced", processes=processes)
        sides = [Side(name="direct", url=paced, key="", model="paced"), ours]
        quiet = [replace(ours, model="silent")]
        if has_litellm:
            sides.append(stack.enter_context(inference_sides.litellm(paced, "none", "paced", folder)))
        points = list(rounds(sides, args, console, {1: 32, 8: 8}, 4))
        return points, [idle(side, ours, console) for side in quiet]


def listening(port: int) -> list[psutil.Process]:
    """Every process that serves this port."""
    there = psutil.net_connections("tcp")
    pids = {one.pid for one in there if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid}
    found = [psutil.Process(pid) for pid in pids]
    return found + [child for one in found for child in one.children() if child not in found]


def rounds(
    sides: list[Side], args: Namespace, console: Console, answers: Mapping[int, int], otherwise: int = 2
) -> Iterator[Point]:
    """`answers`: of each stream in a round, by the number of streams."""
    for side in sides:
        run(load(side, 2, 1, args.tokens))
    for number in range(args.rounds):
        for streams in args.streams:
            for side in sides if number % 2 == 0 else reversed(sides):
                if streams > side.most_streams:
                    continue
                # Not counted: after the minutes of the other sides nothing is warm.
                run(load(side, 1, 1, 2))
                cpu = side.cpu_seconds()
                made = run(load(side, streams, answers.get(streams, otherwise), args.tokens))
                per_token = 1e3 * (side.cpu_seconds() - cpu) / max(1, made.tokens)
                point = Point(side=side.name, streams=streams, measured=made, cpu_ms_per_token=per_token)
                console.print(inference_page.line(number, point))
                yield point


def load(side: Side, streams: int, answers: int, tokens: int) -> Load:
    return Load(
        url=side.url, key=side.key, model=side.model, streams=streams, answers=answers, tokens=tokens, extra=side.extra
    )  # fmt: skip


def idle(silent: Side, busy: Side, console: Console) -> Idle:
    """1,000 streams are held open while others are answered."""
    before = silent.rss_bytes()
    made = asyncio.run(held(silent, busy, before))
    console.print(f"{NUM_IDLE} idle streams: {silent.name}: {made.rss_bytes / 2**20:.0f} MiB")
    return made


async def held(silent: Side, busy: Side, before: int) -> Idle:
    waiting: list[asyncio.StreamWriter] = []
    for number in range(NUM_IDLE):
        waiting.append(await opened(silent, number))
    time.sleep(2.0)
    rss = silent.rss_bytes()
    first = (await asyncio.to_thread(run, load(busy, 1, 20, INSTANT_TOKENS))).first
    for writer in waiting:
        writer.close()
    return Idle(side=silent.name, rss_before_bytes=before, rss_bytes=rss, first=first)


async def opened(side: Side, number: int) -> asyncio.StreamWriter:
    """A stream whose first event is there."""
    from tests.bench.inference_load import ask

    reader, writer = await ask(load(side, 1, 1, 16), str(number))
    while not (await reader.readline()).startswith(b"data:"):
        pass
    return writer


if __name__ == "__main__":
    sys.exit(main())
