"""The rows of a generation job and the requests that they mean.

A row is {"custom_id", "messages" | "prompt", ...sampling}, a line of OpenAI's batches {"custom_id", "url", "body"}, or
an alpaca row {"instruction", "input"}. The whole file is looked at before the first request: what cannot be asked is
told at once and with its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from shared import asking, dataset, reading, sampling
from shared.asking import CHAT, COMPLETIONS
from shared.errors import Complaint, InvalidDataset
from shared.reading import Found
from shared.spec import GenerateSpec

#: Told at most; a file of the wrong kind has one in every line.
MAX_COMPLAINTS = 100


@dataclass(frozen=True, kw_only=True)
class Row:
    #: The row's own `custom_id`, else `line-<n>`.
    custom_id: str
    path: str
    body: Mapping[str, Any]


class _Wrong(ValueError):
    """What is wrong with one line."""


def read(path: Path, spec: GenerateSpec) -> Iterator[Row]:
    """The rows of a file that `check` found right."""
    for found in islice(_rows(path), spec.max_samples):
        yield _row(found, spec)


def check(path: Path, spec: GenerateSpec) -> int:
    """How many rows there are. Raises InvalidDataset with the lines that cannot be asked."""
    complaints: list[Complaint] = []
    seen: dict[str, int] = {}
    for found in islice(_rows(path), spec.max_samples):
        try:
            custom_id = _row(found, spec).custom_id
            if custom_id in seen:
                raise _Wrong(f"custom_id {custom_id!r} is that of line {seen[custom_id]} too")
            seen[custom_id] = found.line
        except _Wrong as error:
            complaints.append(Complaint(field="dataset", message=str(error), line=found.line))
            if len(complaints) == MAX_COMPLAINTS:
                break
    if complaints or not seen:
        raise _refusal(complaints)
    return len(seen)


def _refusal(complaints: list[Complaint]) -> InvalidDataset:
    if not complaints:
        return InvalidDataset("the dataset has no rows", field="dataset")
    first = complaints[0]
    text = f"{len(complaints)} line(s) cannot be asked; line {first.line}: {first.message}"
    return InvalidDataset(text, complaints=complaints)


def _rows(path: Path) -> Iterator[Found]:
    """As datasets are read; of what a name says of its file nothing is known here."""
    return reading.read(path, dataset.container_of(path))


def _row(found: Found, spec: GenerateSpec) -> Row:
    if found.error is not None:
        raise _Wrong(found.error.message)
    given = found.value
    if not isinstance(given, dict):
        raise _Wrong("is no JSON object")
    custom_id = given.get("custom_id", f"line-{found.line}")
    if not isinstance(custom_id, str) or not custom_id:
        raise _Wrong("custom_id must be a text")
    asked = _asked(given, spec)
    if wrong := sampling.complaints(asked):
        raise _Wrong("; ".join(f"{complaint.field} {complaint.message}" for complaint in wrong))
    # The spec's parameters, then what the row itself says; the model is the job's.
    said = asking.merged(asking.of_spec(spec.sampling), asked)
    if wrong := list(sampling.conflicts(said, beams_heed=True)):
        raise _Wrong("; ".join(f"{complaint.field} {complaint.message}" for complaint in wrong))
    path = CHAT if "messages" in said else COMPLETIONS
    body = asking.to_openai(said, path) | {"model": spec.model}
    for name in ("stream", "stream_options"):
        body.pop(name, None)
    return Row(custom_id=custom_id, path=path, body=body)


def _asked(given: dict[str, Any], spec: GenerateSpec) -> dict[str, Any]:
    """`messages` or `prompt`, and the sampling parameters of the row."""
    if isinstance(given.get("body"), dict):
        asked = dict(given["body"])
    else:
        kept = sampling.names() | {"messages", "prompt"}
        asked = {name: value for name, value in given.items() if name in kept}
    if "instruction" in given and "messages" not in asked:
        text = "\n".join(str(part) for part in (given["instruction"], given.get("input")) if part)
        asked["messages"] = [{"role": "user", "content": text}]
    if isinstance(asked.get("messages"), list) and asked["messages"]:
        asked.pop("prompt", None)
        asked["messages"] = _with_system(asked["messages"], spec.default_system)
    elif not isinstance(asked.get("prompt"), str | list) or not asked["prompt"]:
        raise _Wrong('has neither "messages" nor "prompt" nor "instruction"')
    return asked


def _with_system(messages: list[Any], system: str | None) -> list[Any]:
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise _Wrong('each message needs a "role"')
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]
