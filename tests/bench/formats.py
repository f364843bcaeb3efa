"""`make formats`: SmolLM2-135M exported in every format through the API, deployed, asked; writes docs/formats.md.

Formats come from their declarations (shared/formats), with every width. One that no machine here serves is told so in
the API's own words. A platform that runs already is used, else one is started for the time of the run. `--only NAME`
takes one format, `--tokens N` says how long each answer is.
"""

from __future__ import annotations

import re
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from gateway.cli.client import ApiError, Client, follow, wait_deployment
from gateway.demo import base
from gateway.demo.platform import Platform
from shared import formats
from shared.errors import TunesmithError
from shared.settings import Settings
from tests.bench import formats_page
from tests.bench.stages import FACTS, get_base, register

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
DATASET = "bench-formats"
STREAMS = (1, 8)
QUESTIONS = ("Tell me about the sea.", "What is a good breakfast?", "How do I learn to sing?", "Describe a mountain.")
#: What vLLM's log says of the kernel it took.
KERNEL = re.compile(r"(?:Using|Selected) (\w+Kernel) for")
TICK_SECONDS = 0.5


class BenchFailed(TunesmithError):
    """An export of the bench did not succeed."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    #: Name for people: `bitsandbytes 4`.
    name: str
    format: str
    bits: int | None


@dataclass(frozen=True, kw_only=True)
class Measured:
    asked: Asked
    #: Of the job; `seconds` by phase, `verification` with its figures.
    result: dict[str, Any]
    #: From the request to the first answer, seconds; None where it is not served.
    ready_seconds: float | None = None
    #: Tokens a second of all streams together, by how many there are.
    speeds: dict[int, float] | None = None
    kernel: str = ""
    #: Why it is not served here, in the API's words.
    refused: str = ""


def main() -> int:
    parser = ArgumentParser(prog="make formats", description=__doc__)
    parser.add_argument("--only", action="append", help="take this format only; may be given several times")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    args = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    settings = Settings.from_env()
    platform = Platform(settings)
    get_base(settings)
    try:
        with platform.ensure() as client:
            measured(args, run(args, client, settings), console)
    finally:
        if platform.is_ours:
            platform.stop()
    return 0


def measured(args: Namespace, made: Iterator[Measured], console: Console) -> None:
    """The page is written after every format: a run takes long, and may be stopped."""
    found: list[Measured] = []
    for one in made:
        found.append(one)
        args.out.write_text(formats_page.text(found, args.tokens))
        console.print(" | ".join(formats_page.row(one)))
    console.print(f"written: {args.out}")


def run(args: Namespace, client: Client, settings: Settings) -> Iterator[Measured]:
    register(client)
    client.upload("/v1/datasets", FACTS, {"name": DATASET})
    for asked in every():
        if args.only and asked.format not in args.only:
            continue
        yield measure(client, settings, asked, args.tokens)


def every() -> Iterator[Asked]:
    """The merged model first: the others are measured against it."""
    for made in sorted(formats.TABLE.values(), key=lambda made: (bool(made.bits), made.name)):
        for bits in made.bits or (None,):
            name = f"{made.name} {bits}" if len(made.bits) > 1 else made.name
            yield Asked(name=name, format=made.name, bits=bits)


def measure(client: Client, settings: Settings, asked: Asked, num_tokens: int) -> Measured:
    job = export(client, asked)
    model, result = job["model"], job["result"]
    began = time.monotonic()
    try:
        deployment = client.post("/v1/deployments", {"model": model, "max_model_len": 1024})
    except ApiError as error:
        why = next((issue["message"] for issue in error.issues), error.message)
        return Measured(asked=asked, result=result, refused=why)
    try:
        done = wait_deployment(client, deployment["id"])
        if done["status"] != "ready":
            return Measured(asked=asked, result=result, refused=str(done["error"]))
        ready = time.monotonic() - began
        speeds = {streams: speed(client, deployment["name"], streams, num_tokens) for streams in STREAMS}
        kernel = kernel_of(settings, done["replicas"][0]["id"])
        return Measured(asked=asked, result=result, ready_seconds=ready, speeds=speeds, kernel=kernel)
    finally:
        stop(client, deployment["id"])


def export(client: Client, asked: Asked) -> dict[str, Any]:
    """The finished job. Raises BenchFailed."""
    body = {
        "kind": "export", "model_name_or_path": base.NAME, "export_format": asked.format,
        "export_dir": f"bench-{asked.name.replace(' ', '-')}", "export_quantization_dataset": DATASET,
        # It is served and asked afterwards in any case.
        "export_verify_vllm": "off", "export_verify_answers": 0,
    }  # fmt: skip
    job = client.post("/v1/jobs", body | ({"export_quantization_bit": asked.bits} if asked.bits else {}))
    for _ in follow(client, job["id"]):
        pass
    done: dict[str, Any] = client.get(f"/v1/jobs/{job['id']}")
    if done["status"] != "succeeded":
        raise BenchFailed(f"{asked.name}: {done['id']} is {done['status']}: {(done.get('error') or {}).get('message')}")
    return done


def speed(client: Client, name: str, streams: int, num_tokens: int) -> float:
    """Tokens a second of so many answers given at once, the questions read included."""

    def ask(number: int) -> int:
        told = client.post("/v1/chat/completions", {
            "model": name, "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
            "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True,
        })  # fmt: skip
        return int(told["usage"]["completion_tokens"])

    with ThreadPoolExecutor(max_workers=streams) as pool:
        list(pool.map(ask, range(streams)))  # the first answers compile, or fill caches
        began = time.monotonic()
        count = sum(pool.map(ask, range(streams)))
        return count / (time.monotonic() - began)


def kernel_of(settings: Settings, replica_id: str) -> str:
    """What the log of a replica on this machine names; empty where it names none."""
    log = settings.run_dir / "replicas" / replica_id / "vllm.log"
    found = KERNEL.findall(log.read_text(errors="replace")) if log.is_file() else []
    return ", ".join(dict.fromkeys(found))


def stop(client: Client, id: str) -> None:
    """And wait until its memory is free again."""
    client.delete(f"/v1/deployments/{id}")
    while client.get(f"/v1/deployments/{id}")["status"] != "stopped":
        time.sleep(TICK_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
