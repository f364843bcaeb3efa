"""The routes, as vLLM's server has them. Nothing is computed here: an event loop talks, others' threads compute."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from inference_worker.child.transformers_server import asking
from inference_worker.child.transformers_server.adapters import Adapters
from inference_worker.child.transformers_server.answering import (
    DONE,
    ChatForm,
    CompletionForm,
    Form,
    Head,
    Usage,
    event,
    joined,
)
from inference_worker.child.transformers_server.asking import Asked
from inference_worker.child.transformers_server.model import Served
from inference_worker.child.transformers_server.refusal import Refusal
from inference_worker.child.transformers_server.scheduler import Counts
from inference_worker.child.transformers_server.sequence import Piece, Task

log = logging.getLogger(__name__)

NOT_CACHED = {"Cache-Control": "no-cache"}


class Computing(Protocol):
    """Who computes tasks: together (scheduler.py) or one by one (whole.py)."""

    counts: Counts

    def submit(self, task: Task) -> None: ...
    @property
    def num_running(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Serving:
    served: Served
    adapters: Adapters
    #: None: the model's answers cannot be computed together.
    together: Computing | None
    one_by_one: Computing
    #: Names of the model without an adapter, and its folder or Hub id.
    names: tuple[str, ...]
    folder: str
    api_key: str
    chance: random.Random

    def submit(self, task: Task) -> None:
        alone = task.num_beams > 1 or self.together is None
        (self.one_by_one if alone else self.together).submit(task)  # type: ignore[union-attr]

    def adapter(self, name: Any) -> str | None:
        """Of the model that a request names; None: the base. Raises Refusal."""
        if name in self.names or name is None:
            return None
        if isinstance(name, str) and name in self.adapters:
            return name
        raise Refusal(f"The model `{name}` does not exist.", "model", 404)


class Routes:
    def __init__(self, serving: Serving):
        self._serving = serving

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, asking.chat, ChatForm, "chatcmpl-")

    async def complete(self, request: Request) -> Response:
        return await self._answer(request, asking.completion, CompletionForm, "cmpl-")

    async def _answer(self, request: Request, read: asking.Reader, form: Any, prefix: str) -> Response:
        body = await _object(request)
        adapter = self._serving.adapter(body.get("model"))
        # Long prompts take a while to be tokenized; streams go on meanwhile.
        asked = await asyncio.to_thread(read, body, self._serving.served, adapter)
        answering = Answering(self._serving, asked)
        head = Head(
            model=body.get("model") or self._serving.names[0],
            prefix=prefix,
            tokenizer=self._serving.served.tokenizer,
            with_token_ids=bool(body.get("return_token_ids")),
        )
        if body.get("stream"):
            events = answering.events(form(head), body.get("stream_options") or {})
            return StreamingResponse(events, media_type="text/event-stream", headers=NOT_CACHED)
        return JSONResponse(await answering.whole(form(head), request))

    async def models(self, _: Request) -> Response:
        serving = self._serving
        places = dict.fromkeys(serving.names, (serving.folder, None))
        places |= {name: (str(folder), serving.names[0]) for name, folder in serving.adapters.folders().items()}
        said = {"object": "model", "owned_by": "transformers", "max_model_len": serving.served.max_model_len}
        cards = [{"id": name, "root": root, "parent": parent, **said} for name, (root, parent) in places.items()]
        return JSONResponse({"object": "list", "data": cards})

    async def tokenize(self, request: Request) -> Response:
        body, served = await _object(request), self._serving.served
        ids = asking.chat_prompt(body, served) if "messages" in body else asking.prompts(body, served)[0]
        told = {"count": len(ids), "max_model_len": served.max_model_len, "tokens": ids}
        strings = served.tokenizer.convert_ids_to_tokens(ids) if body.get("return_token_strs") else None
        return JSONResponse(told | {"token_strs": strings})

    async def detokenize(self, request: Request) -> Response:
        body = await _object(request)
        ids = asking.prompts({"prompt": body.get("tokens")}, self._serving.served)[0]
        return JSONResponse({"prompt": self._serving.served.tokenizer.decode(ids)})

    async def load_adapter(self, request: Request) -> Response:
        body = await _object(request)
        name, folder = _text(body, "lora_name"), _text(body, "lora_path")
        if name in self._serving.names:
            raise Refusal(f"{name!r} is the name of the base", "lora_name")
        await asyncio.to_thread(self._serving.adapters.load, name, Path(folder))
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload_adapter(self, request: Request) -> Response:
        name = _text(await _object(request), "lora_name")
        await asyncio.to_thread(self._serving.adapters.unload, name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def health(self, _: Request) -> Response:
        return Response()

    async def metrics(self, _: Request) -> Response:
        return PlainTextResponse(metrics_page(self._serving))


class Answering:
    """One request's answers, as they come out of the threads that compute them."""

    def __init__(self, serving: Serving, asked: Asked):
        self._asked = asked
        self._queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def sink(told: Piece | Exception) -> None:
            loop.call_soon_threadsafe(self._queue.put_nowait, told)

        self._tasks = asked.tasks(serving.served, serving.chance, sink)
        self._num_open = len(asked.prompts) * asked.num_answers
        self.usage = Usage(sum(len(ids) for ids in asked.prompts))
        for task in self._tasks:
            serving.submit(task)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Whoever stops listening ends what is computed. Raises what went wrong there."""
        try:
            while self._num_open:
                told = await self._queue.get()
                if isinstance(told, Exception):
                    raise told
                self.usage.count(told)
                self._num_open -= told.finish_reason is not None
                yield told
        finally:
            for task in self._tasks:
                task.cancelled = True

    async def events(self, form: Form, options: Mapping[str, Any]) -> AsyncIterator[bytes]:
        try:
            for index in range(self._num_open):
                if (opening := form.opening(index)) is not None:
                    yield event(opening)
            async for piece in self.pieces():
                chunk = form.chunk(piece)
                told = {"usage": self.usage.to_json()} if options.get("continuous_usage_stats") else {}
                yield event(chunk | told)
            if options.get("include_usage"):
                yield event(form.last(self.usage))
        except Exception as error:  # the answer has begun: its status is told, the error comes as an event
            log.error("A stream failed: %s", error)
            yield event(_failure(error).body)
        finally:
            for task in self._tasks:
                task.cancelled = True
        yield DONE

    async def whole(self, form: Form, request: Request) -> dict[str, Any]:
        collecting = asyncio.ensure_future(self._collected())
        leaving = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                raise Refusal("the client went away")
            return form.whole(joined(collecting.result()), self.usage)
        finally:
            collecting.cancel()
            leaving.cancel()
            for task in self._tasks:
                task.cancelled = True

    async def _collected(self) -> list[Piece]:
        return [piece async for piece in self.pieces()]


async def _gone(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        raise Refusal(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refusal("the body must be a JSON object")
    return body


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise Refusal(f"{name!r} must be a text", name)
    return value


def metrics_page(serving: Serving) -> str:
    """Under vLLM's names."""
    parts = [part for part in (serving.together, serving.one_by_one) if part is not None]
    values = {
        "num_requests_running": ("gauge", sum(part.num_running for part in parts)),
        "num_requests_waiting": ("gauge", sum(part.num_waiting for part in parts)),
        "prompt_tokens_total": ("counter", sum(part.counts.prompt_tokens for part in parts)),
        "generation_tokens_total": ("counter", sum(part.counts.generated_tokens for part in parts)),
    }
    label = json.dumps(serving.names[0])
    lines = [
        f'# TYPE vllm:{name} {kind}\nvllm:{name}{{engine="0",model_name={label}}} {float(value)}'
        for name, (kind, value) in values.items()
    ]
    return "\n".join(lines) + "\n"


def _failure(error: Exception) -> Refusal:
    return error if isinstance(error, Refusal) else Refusal(f"{type(error).__name__}: {error}"[:500], None, 500)


async def _refused(_: Request, error: Exception) -> Response:
    failure = _failure(error)
    return JSONResponse(failure.body, status_code=failure.status)


def make_app(serving: Serving) -> Starlette:
    routes = Routes(serving)

    def guarded(handler: Any) -> Any:
        async def asked(request: Request) -> Response:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if serving.api_key and not secrets.compare_digest(given.encode(), serving.api_key.encode()):
                raise Refusal("the key of this server is missing or wrong", None, 401)
            response: Response = await handler(request)
            return response

        return asked

    posts = {
        "/v1/chat/completions": routes.chat,
        "/v1/completions": routes.complete,
        "/v1/load_lora_adapter": routes.load_adapter,
        "/v1/unload_lora_adapter": routes.unload_adapter,
        "/tokenize": routes.tokenize,
        "/detokenize": routes.detokenize,
    }
    gets = {"/v1/models": routes.models, "/metrics": routes.metrics}
    return Starlette(
        routes=[
            *(Route(path, guarded(handler), methods=["POST"]) for path, handler in posts.items()),
            *(Route(path, guarded(handler), methods=["GET"]) for path, handler in gets.items()),
            Route("/health", routes.health),
        ],
        exception_handlers={Refusal: _refused, Exception: _refused},
    )
