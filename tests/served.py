"""A gateway under gunicorn, as it is run, before replicas that are socket servers (tests/unit/upstream.py)."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import psutil

from tests.platform import Platform
from tests.unit.upstream import Upstream

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
DONE = b"data: [DONE]\n\n"
ANSWER = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "smol",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}  # fmt: skip


@dataclass
class Served:
    platform: Platform
    url: str

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.platform.keys["admin"], max_retries=0)

    def deploy(self, name: str, upstream: Upstream, **spec: Any) -> None:
        """A deployment whose one replica is `upstream`."""
        self.platform.deploy(name, upstream.url, **spec)

    @contextlib.contextmanager
    def asking(self, name: str, *, stream: bool = True) -> Iterator[socket.socket]:
        """A client that does with its socket what it wants."""
        body = json.dumps({"model": name, "messages": HELLO, "stream": stream}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: {self.key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            connection.connect(("127.0.0.1", self.port))
            connection.sendall(head.encode() + body)
            yield connection

    @property
    def process(self) -> psutil.Process:
        """The one that serves."""
        there = psutil.net_connections("tcp")
        pids = {one.pid for one in there if one.status == psutil.CONN_LISTEN and one.laddr.port == self.port}
        # Gunicorn's arbiter listens as well.
        return max((psutil.Process(pid) for pid in pids if pid), key=lambda process: process.create_time())

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 0

    @property
    def key(self) -> str:
        return self.platform.headers()["Authorization"]
