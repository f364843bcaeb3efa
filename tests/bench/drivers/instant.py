"""A server that speaks as a replica does and computes nothing: what a gateway takes of its own is seen against it.

`python instant.py PORT TOKENS PACE_MS IDLE`: each answer has TOKENS events, PACE_MS apart; with IDLE 1 only the first
comes, and then nothing, for ever.
"""

from __future__ import annotations

import asyncio
import sys

EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"smol","choices":[{"index":0,'
EVENT += b'"delta":{"role":"assistant","content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
LAST = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"smol","choices":[{"index":0,'
LAST += b'"delta":{"content":""},"logprobs":null,"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


async def main(port: int, tokens: int, pace_seconds: float, is_idle: bool) -> None:
    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunk(EVENT))
        if is_idle:
            await reader.read()
            raise ConnectionResetError
        for _ in range(tokens - 1):
            await writer.drain()
            if pace_seconds:
                await asyncio.sleep(pace_seconds)
            writer.write(chunk(EVENT))
        writer.write(chunk(LAST) + chunk(DONE) + b"0\r\n\r\n")
        await writer.drain()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not await asked(reader):
                await stream(reader, writer)
            await stream(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


async def asked(reader: asyncio.StreamReader) -> bool:
    """Reads one request; whether its connection ends after it."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))
    return b"\r\nconnection: close\r\n" in head


def chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000, sys.argv[4] == "1"))
