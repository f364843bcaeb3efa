"""ASGI middleware that vLLM is started with (`--middleware tap.Tap`) where it is asked what a gateway adds: when each
request reached it, and when the first event of its answer left it.

Writes a line of JSON for each to the file in TUNESMITH_BENCH_TAP: [user, arrived, left], seconds of the clock that all
processes of a machine share (monotonic). A request is known by its `user`, which every gateway passes on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Tap:
    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]):
        self._app = app
        self._out = os.open(os.environ["TUNESMITH_BENCH_TAP"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope.get("method") != "POST":
            await self._app(scope, receive, send)
            return
        came = bytearray()
        arrived, is_first = 0.0, True

        async def received() -> Message:
            nonlocal arrived
            message = await receive()
            if message["type"] == "http.request" and not arrived:
                came.extend(message.get("body", b""))
                arrived = 0.0 if message.get("more_body") else time.monotonic()
            return message

        async def sent(message: Message) -> None:
            nonlocal is_first
            left = time.monotonic()
            await send(message)
            if is_first and message.get("body"):
                is_first = False
                told = json.dumps([json.loads(came).get("user"), arrived, left])
                os.write(self._out, f"{told}\n".encode())

        await self._app(scope, received, sent)
