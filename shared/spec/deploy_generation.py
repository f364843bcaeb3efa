"""What a deployment's requests are answered with where they do not say it themselves.

LF's files for inference write these parameters beside those of the server: they are gathered here, as they come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.param import param

FIELD = "generation"
#: LF's arguments of generation, as a file for inference has them.
LF_NAMES = (
    "do_sample", "temperature", "top_p", "top_k", "num_beams", "max_length", "max_new_tokens", "repetition_penalty",
    "length_penalty", "skip_special_tokens",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Answering:
    generation: dict[str, Any] = param(
        {},
        "Generation parameters for requests that do not say them, by the names of generation; a request's preset, and "
        "the request itself, go before. LF's may stand beside the other fields.",
        source="ours",
        since=5,
    )


def gathered(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body with LF's arguments of generation in their field; what that says itself goes before."""
    loose = {name: body[name] for name in LF_NAMES if body.get(name) is not None}
    told = body.get(FIELD) or {}
    if not loose or not isinstance(told, dict):
        return dict(body)
    rest = {name: value for name, value in body.items() if name not in LF_NAMES}
    return {**rest, FIELD: {**loose, **told}}
