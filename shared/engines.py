"""The programs that answer for a deployment, and what each can: known at the door, without any of them here.

How one is started is the inference worker's (inference_worker/engines). Which one is taken is the deployment's to
say, never chosen silently: where vLLM fails, the deployment says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.declarations import Format

VLLM, TRANSFORMERS = "vllm", "transformers"


@dataclass(frozen=True, kw_only=True)
class Engine:
    name: str
    #: As messages call it.
    title: str
    #: Adapters loaded and unloaded while it answers, each request with its own.
    adapters: bool
    #: Calls of tools found in an answer and told apart from it.
    tools: bool
    #: Beams while others are answered; a stream has none.
    beams: bool
    #: OpenAI's newer form of a request, /v1/responses.
    responses: bool
    #: Formats that it loads; None: see `Format.served`.
    formats: tuple[str, ...] | None

    def loads(self, made: Format) -> bool:
        return self.formats is None or made.name in self.formats


ENGINES: Mapping[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine(name=VLLM, title="vLLM", adapters=True, tools=True, beams=True, responses=True, formats=None),
        Engine(
            name=TRANSFORMERS, title="transformers", adapters=True, tools=False, beams=True, responses=False,
            formats=("merged",),
        ),
    )
}  # fmt: skip
