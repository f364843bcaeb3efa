"""Streams of chat completions against one server, measured from outside: a process of its own with a plain asyncio
client, so that what it takes itself is little and the same for all.

Reads what to do as JSON from its standard input (`Load`) and writes what it measured to its standard output
(`Measured`).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

#: A server that takes longer for one answer hangs.
ANSWER_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Load:
    url: str
    key: str
    model: str
    #: Answers at once, and one after another in each.
    streams: int
    answers: int = 1
    tokens: int = 64
    #: Members of each request beside model, messages, stream and max_tokens.
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measured:
    #: From the first request to the end of the last answer.
    seconds: float
    tokens: int
    #: From a request to its first event, of every answer, seconds.
    first: list[float]
    errors: list[str]

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def run(load: Load) -> Measured:
    """In a process of its own."""
    command = [sys.executable, "-m", "tests.bench.inference_load"]
    done = subprocess.run(command, input=json.dumps(asdict(load)), capture_output=True, text=True, check=True)
    return Measured(**json.loads(done.stdout))


async def measure(load: Load) -> Measured:
    first: list[float] = []
    errors: list[str] = []
    began = time.perf_counter()
    counts = await asyncio.gather(*(stream(load, number, first, errors) for number in range(load.streams)))
    return Measured(seconds=time.perf_counter() - began, tokens=sum(counts), first=first, errors=errors)


async def stream(load: Load, number: int, first: list[float], errors: list[str]) -> int:
    """Tokens of the answers of one client, who asks the next question when he has read an answer."""
    count = 0
    for turn in range(load.answers):
        try:
            count += await asyncio.wait_for(answer(load, f"{number}.{turn}", first), ANSWER_SECONDS)
        except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError) as error:
            errors.append(f"{type(error).__name__}: {error}")
    return count


async def answer(load: Load, number: str, first: list[float]) -> int:
    began = time.perf_counter()
    reader, writer = await ask(load, number)
    try:
        return await read(reader, began, first)
    finally:
        writer.close()


async def ask(load: Load, number: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """One request, up to the head of its answer. Raises ValueError where that is no stream."""
    place = urlsplit(load.url)
    messages = [{"role": "user", "content": f"Question {number}: tell me a story about the sea."}]
    body = json.dumps(
        {"model": load.model, "messages": messages, "stream": True, "max_tokens": load.tokens} | load.extra
    )
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


async def read(reader: asyncio.StreamReader, began: float, first: list[float]) -> int:
    """Tokens as the last event tells them, else one for each event. Lines of chunked coding are no `data:`."""
    num_events, told = 0, None
    while line := await reader.readline():
        if not line.startswith(b"data:"):
            continue
        if not num_events:
            first.append(time.perf_counter() - began)
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
