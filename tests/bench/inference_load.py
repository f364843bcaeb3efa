"""Streams of chat completions against one server, measured from outside: a process of its own with a plain asyncio
client, so that what it takes itself is little and the same for all.

Reads what to do as JSON from its standard input (`Load`) and writes what it measured to its standard output
(`Measured`).
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

#: A server that takes longer for one answer hangs.
ANSWER_SECONDS = 300.0
APART_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class Load:
    url: str
    key: str
    model: str
    #: Answers at once, and one after another in each.
    streams: int
    answers: int = 1
    tokens: int = 64
    #: Streams begin one after another and their answers are of different length, half to one and a half of `tokens`:
    #: otherwise all of them ask for the next answer at the same instant.
    apart: bool = False
    #: What the `user` of each request begins with, which tells it from those of all other loads; empty: it has none.
    users: str = ""
    #: Members of each request beside model, messages, stream and max_tokens.
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measured:
    #: From the first request to the end of the last answer.
    seconds: float
    tokens: int
    #: Of every answer its user, when its connection was opened and when its first event was there; monotonic.
    answers: list[tuple[str, float, float]]
    errors: list[str]

    @property
    def first(self) -> list[float]:
        """From a request to its first event, of every answer, seconds."""
        return [first - began for _, began, first in self.answers]

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def run(load: Load) -> Measured:
    """In a process of its own."""
    command = [sys.executable, "-m", "tests.bench.inference_load"]
    done = subprocess.run(command, input=json.dumps(asdict(load)), capture_output=True, text=True, check=True)
    return Measured(**json.loads(done.stdout))


async def measure(load: Load) -> Measured:
    answers: list[tuple[str, float, float]] = []
    errors: list[str] = []
    began = time.monotonic()
    counts = await asyncio.gather(*(stream(load, number, answers, errors) for number in range(load.streams)))
    return Measured(seconds=time.monotonic() - began, tokens=sum(counts), answers=answers, errors=errors)


async def stream(load: Load, number: int, answers: list[tuple[str, float, float]], errors: list[str]) -> int:
    """Tokens of the answers of one client, who asks the next question when he has read an answer."""
    count = 0
    await asyncio.sleep(APART_SECONDS * number if load.apart else 0.0)
    for turn in range(load.answers):
        try:
            count += await asyncio.wait_for(answer(load, f"{number}.{turn}", answers), ANSWER_SECONDS)
        except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError) as error:
            errors.append(f"{type(error).__name__}: {error}")
    return count


async def answer(load: Load, number: str, answers: list[tuple[str, float, float]]) -> int:
    began = time.monotonic()
    reader, writer = await ask(load, number)
    try:
        return await read(reader, lambda: answers.append((user(load, number), began, time.monotonic())))
    finally:
        writer.close()


async def ask(load: Load, number: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """One request, up to the head of its answer. Raises ValueError where that is no stream."""
    place = urlsplit(load.url)
    messages = [{"role": "user", "content": f"Question {number}: tell me a story about the sea."}]
    given = {"model": load.model, "messages": messages, "stream": True, "max_tokens": length(load, number)} | load.extra
    body = json.dumps(given | ({"user": user(load, number)} if load.users else {}))
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {load.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write((head + body).encode())
    status = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in status.split(b"\r\n")[0]:
        writer.close()
        raise ValueError((status + await reader.read(500)).decode(errors="replace"))
    return reader, writer


def length(load: Load, number: str) -> int:
    """Of an answer; the same on all sides."""
    share = random.Random(number).uniform(0.5, 1.5) if load.apart else 1.0
    return round(load.tokens * share)


def user(load: Load, number: str) -> str:
    return f"{load.users}-{number}"


async def read(reader: asyncio.StreamReader, begun: Callable[[], None]) -> int:
    """Tokens as the last event tells them, else one for each event. Lines of chunked coding are no `data:`."""
    num_events, told = 0, None
    while line := await reader.readline():
        if not line.startswith(b"data:"):
            continue
        if not num_events:
            begun()
        if b"[DONE]" in line:
            return told if told is not None else num_events - 1
        if b'"error"' in line[:20]:
            raise ValueError(line.decode())
        if b'"usage":{' in line or b'"usage": {' in line:
            told = json.loads(line[5:])["usage"]["completion_tokens"]
        num_events += 1
    raise ValueError("the stream ended without [DONE]")


if __name__ == "__main__":
    made = asyncio.run(measure(Load(**json.load(sys.stdin))))
    sys.stdout.write(json.dumps(asdict(made)))
