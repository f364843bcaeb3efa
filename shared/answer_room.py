"""What we see to and no replica is told: `max_length`, which counts the prompt too, and fewer answers than beams.

The prompt is counted by the replica that will read it, which has the tokenizer and the template. Pure functions of what
goes there and comes back: gateways and generation in bulk send it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared import asking, responses
from shared.errors import Complaint, InvalidSpec
from shared.tongues import Text

TOKENIZE = "/tokenize"
#: Of a request, what its prompt is made of.
PROMPT = frozenset({
    "add_generation_prompt", "add_special_tokens", "chat_template", "chat_template_kwargs", "continue_final_message",
    "messages", "model", "tools",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Room:
    #: Of prompt and answer together, tokens; None: nothing is to be counted.
    max_length: int | None = None
    #: Beams that come back for each prompt, and how many of them are told; None: all.
    num_beams: int = 1
    num_told: int | None = None


def of(said: Mapping[str, Any]) -> Room:
    """What is to be seen to of merged parameters."""
    beams = asking.num_beams(said)
    told = int(said.get("n") or 1) if beams > 1 else None
    return Room(max_length=asking.max_length(said), num_beams=beams, num_told=told)


def num_tokens(body: Mapping[str, Any]) -> int | None:
    """Of the prompt, where it has its tokens already; None: the replica must count them. Raises InvalidSpec where
    there are several."""
    prompt = _prompt(body)
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        raise _refusal(Text("counts one prompt with its answer, and there are {count}: use max_tokens",
                            count=len(prompt)))  # fmt: skip
    return len(prompt) if isinstance(prompt, list) else None


def question(body: Mapping[str, Any]) -> bytes:
    """What a replica is asked at TOKENIZE, which knows conversations and texts."""
    prompt = _prompt(body)
    if prompt is None and body.get("messages") is None:
        body = {"model": body.get("model"), **responses.conversation(body)}
    asked = {name: value for name, value in body.items() if name in PROMPT and value is not None}
    return json.dumps(asked if prompt is None else {**asked, "prompt": prompt}).encode()


def limited(body: Mapping[str, Any], path: str, count: int, max_length: int) -> dict[str, Any]:
    """The body with what is left for the answer. Raises InvalidSpec where the prompt leaves nothing."""
    if count >= max_length:
        raise _refusal(Text("is {most}, but the prompt alone has {count} tokens", most=max_length, count=count))
    return {**body, asking.READ[path][0]: max_length - count}


def told(answer: bytes, room: Room) -> bytes:
    """The answer with as many choices as were asked for: of each prompt's beams the first, which are the best."""
    if room.num_told is None or room.num_told >= room.num_beams:
        return answer
    whole = json.loads(answer)
    kept = [choice for choice in whole["choices"] if choice["index"] % room.num_beams < room.num_told]
    for number, choice in enumerate(kept):
        choice["index"] = number
    return json.dumps({**whole, "choices": kept}).encode()


def _refusal(message: Text) -> InvalidSpec:
    return InvalidSpec(f"max_length {message}", complaints=[Complaint(field="max_length", message=message)])


def _prompt(body: Mapping[str, Any]) -> Any:
    """A text, or one list of token ids; None of conversations, and several as they were given."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        return prompt[0]
    return prompt
