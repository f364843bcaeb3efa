"""Are the generation parameters right that somebody gives: in a request, a preset, a deployment, a row of a job?

Ranges are those of their declarations (shared/spec/generate.py); what two of them say together is looked at in
`conflicts`. Nothing is defaulted: how they become what a replica is asked is shared/asking.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, missing
from marshmallow.fields import Field

from shared import asking, extras, schema
from shared.errors import Complaint
from shared.spec import Sampling
from shared.tongues import Text

#: What a beam search would pass over without a word.
NOT_WITH_BEAMS = (
    "stop", "stop_token_ids", "min_tokens", "min_new_tokens", "logit_bias", "allowed_token_ids", "bad_words",
    "response_format", "structured_outputs", "tools",
)  # fmt: skip
#: The same of penalties, unless they have the value that changes nothing.
NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
#: Of both what the search of engine transformers heeds.
HEEDED = frozenset({"stop", "stop_token_ids", "min_tokens", "min_new_tokens", "repetition_penalty"})
#: How tokens are drawn, which beams are not on any engine, with the values that ask for nothing.
DRAWN: Mapping[str, tuple[float, ...]] = {
    "do_sample": (False,), "temperature": (0, 1), "top_p": (1,), "top_k": (0, -1), "min_p": (0,),
}  # fmt: skip


def names() -> frozenset[str]:
    """Every sampling parameter's name, aliases included."""
    return frozenset(fields())


@cache
def fields() -> Mapping[str, Field[Any]]:
    """The Marshmallow field of each name, for schemas of whole requests."""
    return {name: _without_default(param.field) for param in schema.params(Sampling) for name in param.names}


def _without_default(field: Field[Any]) -> Field[Any]:
    """Ours is for jobs: what a request leaves out is decided by the model's generation config."""
    made = copy.copy(field)
    made.load_default = missing
    return made


def complaints(given: Mapping[str, Any], request: type[Schema] | None = None) -> list[Complaint]:
    """What is wrong with the parameters among `given`, each by itself, or with all that `request` describes. A null
    means that it was left out, as at OpenAI."""
    said = {name: value for name, value in given.items() if value is not None}
    known = _known(kind := request or _schema())
    found = list(extras.complaints(said, known))
    try:
        _checker(kind, known.intersection(said)).load(said)
    except ValidationError as error:
        found += [_complaint(name, messages) for name, messages in error.messages_dict.items()]
    return found or list(_twice(said))


def conflicts(
    given: Mapping[str, Any],
    *,
    path: str = asking.CHAT,
    stream: bool = False,
    beams_heed: bool = False,
    own: Mapping[str, Any] | None = None,
) -> Iterator[Complaint]:
    """What parameters say against each other, each of which is right by itself.

    `beams_heed`: the engine's beams follow what vLLM's pass over. `own`: what the asker says itself, None: all; of the
    rest, a deployment's or a preset's, the way of drawing tokens means nothing beside beams, as in LF.
    """
    longest = next((given[name] for name in asking.LENGTHS if name != "max_length" and given.get(name)), None)
    shortest = given.get("min_tokens") or given.get("min_new_tokens")
    if longest is not None and shortest is not None and shortest > longest:
        yield Complaint(field="min_tokens", message=Text("is more than the longest answer, {most}", most=longest))
    # A response has no such switch: it says what it includes.
    if path != asking.RESPONSES and given.get("top_logprobs") and not given.get("logprobs"):
        yield Complaint(field="top_logprobs", message=Text("needs logprobs: true"))
    if given.get("response_format") and given.get("structured_outputs"):
        yield Complaint(field="structured_outputs", message=Text("cannot stand beside response_format: give one"))
    prompt = given.get("prompt")
    if given.get("max_length") and isinstance(prompt, list) and len(prompt) > 1 and isinstance(prompt[0], str | list):
        text = Text("counts one prompt with its answer, and there are {count}: use max_tokens", count=len(prompt))
        yield Complaint(field="max_length", message=text)
    yield from _tools(given)
    if asking.has_beams(given):
        yield from _beams(given, stream, beams_heed)
    yield from drawn_beside_beams(given if own is None else own)


def _tools(given: Mapping[str, Any]) -> Iterator[Complaint]:
    choice, tools = given.get("tool_choice"), given.get("tools") or []
    if choice is None or choice == "none":
        return
    if not tools:
        yield Complaint(field="tool_choice", message=Text("needs tools to choose from"))
    elif isinstance(choice, dict):
        known = [tool["function"]["name"] for tool in tools]
        if (name := choice["function"]["name"]) not in known:
            text = Text("names {name!r}, which is none of the tools: {known}", name=name, known=", ".join(known))
            yield Complaint(field="tool_choice", message=text)


def _beams(given: Mapping[str, Any], stream: bool, beams_heed: bool) -> Iterator[Complaint]:
    beams = asking.num_beams(given)
    if stream:
        text = Text("is {count}: beams are compared at the end, so the answer cannot be streamed", count=beams)
        yield Complaint(field="num_beams", message=text)
    if beams > 1 and (given.get("n") or 1) > beams:
        text = Text("is {count}: at most as many answers as num_beams, {beams}", count=given["n"], beams=beams)
        yield Complaint(field="n", message=text)
    passed_over = [name for name in NOT_WITH_BEAMS if given.get(name)]
    passed_over += [name for name, value in NEUTRAL.items() if given.get(name, value) not in (value, None)]
    for name in passed_over:
        if not (beams_heed and name in HEEDED):
            yield Complaint(field=name, message=Text("is not heeded by a beam search here: leave it or num_beams out"))


def drawn_beside_beams(own: Mapping[str, Any]) -> Iterator[Complaint]:
    """What somebody says of drawing tokens beside beams of their own."""
    if not asking.has_beams(own) or own.get("do_sample") is False:
        return
    for name, neutral in DRAWN.items():
        if own.get(name) is not None and own[name] not in neutral:
            text = "says how tokens are drawn, and beams are not: leave it or num_beams out, or say do_sample false"
            yield Complaint(field=name, message=Text(text))


def _twice(given: Mapping[str, Any]) -> Iterator[Complaint]:
    """Two names of one parameter; OpenAI's two for the longest answer may stand together, as there."""
    for param in schema.params(Sampling):
        for other in param.aliases if param.wire in given else ():
            if other in given:
                message = Text("is another name for {name!r}: give one", name=other)
                yield Complaint(field=param.wire, message=message)


@lru_cache(maxsize=512)
def _checker(request: Any, said: frozenset[str]) -> Schema:
    """Of what is said and of what must be. Kept: making one copies its fields, and clients say the same names again;
    one of all fields would look for each of them in each request."""
    whole = request(unknown=EXCLUDE)
    wanted = {name for name, field in whole.fields.items() if name in said or field.required}
    made: Schema = request(only=wanted, unknown=EXCLUDE)
    return made


@cache
def _known(request: Any) -> frozenset[str]:
    return frozenset({*request(unknown=EXCLUDE).fields, *names(), *asking.FOREIGN})


@cache
def _schema() -> type[Schema]:
    return Schema.from_dict(dict(fields()), name="Sampling")


def _complaint(name: str, messages: Any) -> Complaint:
    first = next(_leaves(messages))
    return Complaint(field=name, message=first, code=getattr(first, "code", "invalid_value"))


def _leaves(messages: Any) -> Iterator[str]:
    """Messages of a list's items lie one level deeper."""
    if isinstance(messages, Mapping):
        for below in messages.values():
            yield from _leaves(below)
    elif isinstance(messages, list):
        yield from messages
    else:
        yield str(messages)
