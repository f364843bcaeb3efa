"""What goes to a replica for what was said: parameters laid over each other, LLaMA Factory's names made vLLM's.

For gateways (a request over its preset over its deployment's own parameters) and for generation in bulk (a row over its
job). Nothing is checked here (shared/sampling.py) and nothing defaulted.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from shared import responses, schema
from shared.spec import Sampling

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES = "/v1/responses"
#: Names of how long an answer may be: who says one says them all.
LENGTHS = ("max_new_tokens", "max_tokens", "max_completion_tokens", "max_output_tokens", "max_length")
#: Of those the names that each route of vLLM reads; the first is the one that is written.
READ: Mapping[str, tuple[str, ...]] = {
    CHAT: ("max_tokens", "max_completion_tokens"), COMPLETIONS: ("max_tokens",), RESPONSES: ("max_output_tokens",),
}  # fmt: skip
#: Name -> what it takes the place of, where that was said below it.
INSTEAD_OF: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(LENGTHS, LENGTHS),
    "min_tokens": ("min_new_tokens",),
    "min_new_tokens": ("min_tokens",),
    # A switch of LF's: who asks for a temperature wants its randomness.
    "temperature": ("do_sample",),
    "response_format": ("structured_outputs",),
    "structured_outputs": ("response_format",),
}
#: What vLLM called its constraints until it forgot the names, which it now passes over without a word.
GUIDED: Mapping[str, str] = {
    "guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar",
}  # fmt: skip
#: Members that no replica knows; a request that has none of them needs no translation.
FOREIGN = frozenset(
    {"do_sample", "max_new_tokens", "max_length", "num_beams", "enable_thinking", "min_new_tokens", "preset", *GUIDED}
)
#: Of beams vLLM reads nothing of how tokens are drawn.
DRAWN = ("do_sample", "temperature", "top_p", "top_k", "min_p", "seed")


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers over earlier ones; a null says nothing, as at OpenAI."""
    body: dict[str, Any] = {}
    for layer in layers:
        said = {name: value for name, value in _spelled(layer).items() if value is not None}
        for name in said:
            for other in INSTEAD_OF.get(name, ()):
                body.pop(other, None)
        if said.get("do_sample") is True and body.get("temperature") == 0:
            # Who asks for randomness over a layer that wants none gets the model's own.
            body.pop("temperature")
        told = {**body.get("chat_template_kwargs", {}), **said.get("chat_template_kwargs", {})}
        body |= said
        if told:
            body["chat_template_kwargs"] = told
    return body


def is_foreign(given: Mapping[str, Any], path: str) -> bool:
    """Whether anything has to be said otherwise to a replica."""
    if not FOREIGN.isdisjoint(given) or any(name in given for name in LENGTHS if name not in READ[path]):
        return True
    logprobs = None if path == RESPONSES else given.get("logprobs")
    return logprobs is not None and isinstance(logprobs, bool) != (path == CHAT)


def to_openai(given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """`given` as vLLM's route takes it; what is no parameter of ours goes on as it is."""
    said = _spelled(given)
    body = {name: value for name, value in said.items() if name not in FOREIGN and name not in LENGTHS}
    longest = [said[name] for name in LENGTHS if name != "max_length" and said.get(name) is not None]
    if longest:
        body[READ[path][0]] = longest[-1]
    if said.get("min_new_tokens") is not None:
        body["min_tokens"] = said["min_new_tokens"]
    if said.get("do_sample") is False:
        # vLLM has no such switch: temperature 0 takes the likeliest token, whatever the other members say.
        body["temperature"] = 0.0
    if path == RESPONSES:
        return responses.newer(body, _parameters())
    if path == COMPLETIONS:
        body = _for_texts(body)
    elif "logprobs" in body and not isinstance(body["logprobs"], bool | None):
        body |= {"top_logprobs": body["logprobs"], "logprobs": True}
    return _with_beams(body, said) if num_beams(said) > 1 else body


@cache
def _parameters() -> frozenset[str]:
    return frozenset(name for param in schema.params(Sampling) for name in param.names)


def num_beams(given: Mapping[str, Any]) -> int:
    return int(given.get("num_beams") or 1)


def has_beams(given: Mapping[str, Any]) -> bool:
    return num_beams(given) > 1 or bool(given.get("use_beam_search"))


def max_length(given: Mapping[str, Any]) -> int | None:
    """How long prompt and answer may be together, where nothing is said of the answer alone; as in LF."""
    others = any(given.get(name) is not None for name in LENGTHS if name != "max_length")
    return None if others else given.get("max_length")


def of_spec(sampling: Sampling) -> dict[str, Any]:
    """What a spec says."""
    values = schema.to_wire(sampling)
    named = {param.wire: values[param.wire] for param in schema.params(Sampling)}
    said = {name: value for name, value in named.items() if value is not None and value != []}
    # Without beams it says nothing, and a spec always has one.
    return said if num_beams(said) > 1 else {k: v for k, v in said.items() if k not in ("num_beams", "length_penalty")}


def _spelled(given: Mapping[str, Any]) -> dict[str, Any]:
    """With what several names mean under one of them."""
    body = {name: value for name, value in given.items() if name not in GUIDED and name != "enable_thinking"}
    for name, constraint in GUIDED.items():
        if given.get(name) is not None:
            body["structured_outputs"] = {constraint: given[name]}
    if given.get("enable_thinking") is not None:
        told = {"enable_thinking": given["enable_thinking"]}
        body["chat_template_kwargs"] = told | (given.get("chat_template_kwargs") or {})
    return body


def _for_texts(body: dict[str, Any]) -> dict[str, Any]:
    """A text has no template that could think or read tools, and one number for the probabilities it wants told."""
    told = body.get("logprobs")
    kept = {name: value for name, value in body.items() if name not in ("top_logprobs", "chat_template_kwargs")}
    if isinstance(told, bool):
        kept.pop("logprobs")
    return kept | ({"logprobs": body.get("top_logprobs") or 0} if told is True else {})


def _with_beams(body: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM answers with all its beams, the best first: whoever asked for fewer gets the first of them."""
    kept = {name: value for name, value in body.items() if name not in DRAWN}
    # 0: it draws a token at each step, for no use, and would take it for one more candidate.
    return kept | {"use_beam_search": True, "n": num_beams(given), "temperature": 0.0}
