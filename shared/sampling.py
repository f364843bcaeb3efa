"""Sampling parameters under the names that vLLM's OpenAI routes take: LLaMA Factory's names become theirs.

One place for the gateway (a request) and for generation in bulk (a spec). What is no parameter of `Sampling` is passed
on as it is: vLLM takes more than we list. Ranges are checked by `complaints`, nothing is defaulted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, missing
from marshmallow.fields import Field

from shared import schema
from shared.errors import Complaint
from shared.spec import Sampling
from shared.tongues import Text

#: Members that only LF knows; a request that has none of them needs no translation.
FOREIGN = frozenset({"do_sample", "max_new_tokens"})


def to_openai(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with LF's names translated; everything else unchanged."""
    body = {name: value for name, value in given.items() if name not in FOREIGN}
    if given.get("max_new_tokens") is not None:
        body["max_tokens"] = given["max_new_tokens"]
    if given.get("do_sample") is False:
        # vLLM has no such switch: temperature 0 takes the likeliest token, whatever the other members say.
        body["temperature"] = 0.0
    return body


def of_spec(sampling: Sampling) -> dict[str, Any]:
    """The members that say what a spec says."""
    values = schema.to_wire(sampling)
    named = {param.wire: values[param.wire] for param in schema.params(Sampling)}
    return to_openai({name: value for name, value in named.items() if value is not None and value != []})


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
    """What is wrong with the sampling parameters among `given`, or with all that `request` describes. A null means
    that it was left out, as at OpenAI."""
    found = _too_many_limits(given)
    try:
        (request or _schema())(unknown=EXCLUDE).load(
            {name: value for name, value in given.items() if value is not None}
        )
    except ValidationError as error:
        found += [_complaint(name, messages) for name, messages in error.messages_dict.items()]
    return found


@cache
def _schema() -> type[Schema]:
    return Schema.from_dict(dict(fields()), name="Sampling")


def _too_many_limits(given: Mapping[str, Any]) -> list[Complaint]:
    if given.get("max_new_tokens") is None:
        return []
    others = [name for name in ("max_tokens", "max_completion_tokens") if given.get(name) is not None]
    return [
        Complaint(field="max_new_tokens", message=Text("is another name for {name!r}: give one", name=name))
        for name in others
    ]


def _complaint(name: str, messages: Any) -> Complaint:
    first = next(_leaves(messages))
    return Complaint(field=name, message=str(first), code=getattr(first, "code", "invalid_value"))


def _leaves(messages: Any) -> Iterator[str]:
    """Messages of a list's items lie one level deeper."""
    if isinstance(messages, Mapping):
        for below in messages.values():
            yield from _leaves(below)
    elif isinstance(messages, list):
        yield from messages
    else:
        yield str(messages)
