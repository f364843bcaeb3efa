"""The rows of generation in bulk and the requests that they mean: checked at the door, asked by the child of the job.

A row is {"custom_id", "messages" | "prompt", ...sampling}, a line of OpenAI's batches {"custom_id", "method", "url",
"body"}, or an alpaca row {"instruction", "input"}. Every row is looked at before the first request: what cannot be
asked is told at once and with its line. Whether the models that rows name exist is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from shared import asking, carried, dataset, reading, sampling
from shared.asking import CHAT, COMPLETIONS
from shared.errors import Complaint, InvalidDataset
from shared.fields import shown
from shared.messages import complaint as message_complaint
from shared.nearest import did_you_mean
from shared.reading import Found
from shared.spec import GenerateSpec
from shared.tongues import Text

#: What rows may ask.
ENDPOINTS = (CHAT, COMPLETIONS)
#: Told at most; a file of the wrong kind has one in every line.
MAX_COMPLAINTS = 100
#: Models that the rows of one file may name: each is looked up.
MAX_MODELS = 64
#: Members that an answer in bulk has no use for: nobody reads along.
STREAMING = ("stream", "stream_options")
#: What is looked at row by row; the rest of a body is mostly the same in all rows of a file.
CONTENT = frozenset({"model", "messages", "prompt"})
PRESET = "preset"
#: What is wrong with the parameters of a row.
Check = Callable[[Mapping[str, Any]], Iterable[Complaint]]


@dataclass(frozen=True, kw_only=True)
class Row:
    #: The row's own `custom_id`, else `line-<n>`.
    custom_id: str
    path: str
    #: Whom it asks; empty: the row does not say, nor does the job.
    model: str
    #: What it says, over what the job says; under the names that were given.
    body: Mapping[str, Any]
    line: int = 0
    #: The data's own answer, told beside the model's; None: it has none.
    label: str | None = None

    def request(
        self, served_name: str, defaults: Mapping[str, Any], carries: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The body for a replica. `defaults`: of the deployment, for what is not said; `carries`: see carried.py."""
        said = asking.to_openai(self.said(defaults), self.path)
        return {**carried.into(said, carries or {}, self.path), "model": served_name}

    def said(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """All that is said for it, under the names that were given."""
        return asking.merged(defaults, self.body)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a job says for all of its rows."""

    #: Asked whatever a row says; None: each row names its own.
    model: str | None = None
    #: What a row gets that says nothing else.
    body: Mapping[str, Any] = field(default_factory=dict)
    #: Parameters by the name of a preset, which a row may say; None: whether there is one is not looked at.
    presets: Mapping[str, Mapping[str, Any]] | None = None
    #: System prompt of rows that have none.
    system: str | None = None
    max_rows: int | None = None
    #: Whether a row must say whom it asks, where the job does not.
    needs_model: bool = True
    #: Whether a row must have a `custom_id` of its own.
    needs_id: bool = False


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is in a file of rows."""

    num_rows: int
    #: Each model that is named, or the empty text -> the first line that names it.
    models: dict[str, int]
    #: Each `url`, or the empty text for rows that are no lines of OpenAI's batches -> how many name it.
    urls: dict[str, int]
    #: Each preset that is named -> the first line that names it.
    presets: dict[str, int]
    #: Each model that is asked for beams together with what vLLM's pass over -> the first such line and its member.
    beams: dict[str, dict[str, Any]]

    def as_record(self) -> dict[str, Any]:
        """As the ledger keeps it with an upload."""
        told = {"models": self.models, "urls": self.urls, "presets": self.presets}
        return told | ({"beams": self.beams} if self.beams else {})


class Wrong(ValueError):
    """What is wrong with one line."""

    def __init__(self, *complaints: Complaint):
        self.complaints = complaints
        super().__init__("; ".join(f"{complaint.field} {complaint.message}" for complaint in complaints))


def of_spec(
    spec: GenerateSpec, *, as_sent: bool = False, presets: Mapping[str, Mapping[str, Any]] | None = None
) -> Terms:
    """`as_sent`: rows say all of what they want, and what they leave out is the deployment's to decide."""
    return Terms(
        model=spec.model,
        body={} if as_sent else asking.of_spec(spec.sampling),
        presets=presets,
        system=spec.default_system,
        max_rows=spec.max_samples,
    )


def survey(path: Path, *, needs_id: bool, check: Check = sampling.complaints) -> Survey:
    """Raises InvalidDataset with the lines that cannot be asked."""
    models: dict[str, int] = {}
    urls: dict[str, int] = {}
    presets: dict[str, int] = {}
    beams: dict[str, dict[str, Any]] = {}
    for row, url in _checked(path, Terms(needs_model=False, needs_id=needs_id), check):
        models.setdefault(row.model, row.line)
        if PRESET in row.body:
            presets.setdefault(row.body[PRESET], row.line)
        if row.model not in beams and asking.has_beams(row.body):
            for wrong in islice(sampling.conflicts(row.body, own={}), 1):
                beams[row.model] = {"line": row.line, "member": wrong.field}
        urls[url] = urls.get(url, 0) + 1
        if len(models) > MAX_MODELS:
            message = Text("names more than {most} models in one file", most=MAX_MODELS)
            raise _refusal([Complaint(field="model", message=message, line=row.line)])
    return Survey(num_rows=sum(urls.values()), models=models, urls=urls, presets=presets, beams=beams)


def read(path: Path, terms: Terms) -> Iterator[Row]:
    """The rows, until one is wrong. Raises InvalidDataset after the last, with every line that cannot be asked."""
    for row, _ in _checked(path, terms, sampling.complaints):
        yield row


def _checked(path: Path, terms: Terms, check: Check) -> Iterator[tuple[Row, str]]:
    check = _kept(check)
    complaints: list[Complaint] = []
    seen: dict[str, int] = {}
    for found in islice(reading.read(path, dataset.container_of(path)), terms.max_rows):
        try:
            row, url = _row(found, terms, check)
            if row.custom_id in seen:
                text = Text("is {id} as in line {line}", id=shown(row.custom_id), line=seen[row.custom_id])
                raise Wrong(_wrong("custom_id", text))
            seen[row.custom_id] = found.line
        except Wrong as wrong:
            complaints += [replace(complaint, line=found.line) for complaint in wrong.complaints]
            if len(complaints) >= MAX_COMPLAINTS:
                break
            continue
        if not complaints:
            yield row, url
    if complaints or not seen:
        raise _refusal(complaints)


def _wrong(name: str, message: str) -> Complaint:
    return Complaint(field=name, message=message)


def _refusal(complaints: list[Complaint]) -> InvalidDataset:
    if not complaints:
        return InvalidDataset("the file has no rows", field="file")
    first = complaints[0]
    text = Text(
        "{count} complaint(s) about lines that cannot be asked; first: line {line}, {field}: {message}",
        count=len(complaints),
        line=first.line,
        field=first.field,
        message=first.message,
    )
    return InvalidDataset(text, field="file", complaints=complaints)


def _row(found: Found, terms: Terms, check: Check) -> tuple[Row, str]:
    """With the url that it names. Raises Wrong."""
    if found.error is not None:
        raise Wrong(_wrong("row", found.error.message))
    given = found.value
    if not isinstance(given, dict):
        raise Wrong(_wrong("row", "must be a JSON object"))
    custom_id = given.get("custom_id", None if terms.needs_id else f"line-{found.line}")
    if not isinstance(custom_id, str) or not custom_id:
        raise Wrong(_wrong("custom_id", "must be a text that names this line"))
    is_line = "body" in given or "url" in given
    url, asked = _line(given) if is_line else ("", _plain(given))
    path, asked = _completed(url, asked, terms.system)
    place = "body." if is_line else ""
    said = asking.merged(terms.body, _preset(terms, asked, place), asked)
    rest = {name: value for name, value in asked.items() if name not in CONTENT}
    if wrong := list(check(rest)) or list(sampling.conflicts(said, beams_heed=True, own=asked)):
        raise Wrong(*(replace(complaint, field=f"{place}{complaint.field}") for complaint in wrong))
    model = terms.model or asked.get("model") or ""
    if not isinstance(model, str) or (terms.needs_model and not model):
        raise Wrong(_wrong(f"{place}model", "must be the name of a model: the job names none"))
    left_out = STREAMING if terms.presets is None else (*STREAMING, PRESET)
    body = {name: value for name, value in said.items() if name not in left_out}
    return Row(custom_id=custom_id, path=path, model=model, body=body | {"model": model}, line=found.line), url


def _preset(terms: Terms, asked: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """Raises Wrong."""
    name = asked.get(PRESET)
    if name is None or (isinstance(name, str) and terms.presets is None):
        return {}
    if not isinstance(name, str) or name not in (terms.presets or {}):
        near = did_you_mean(str(name), terms.presets or ())
        raise Wrong(_wrong(f"{place}preset", Text("is {name}: there is no such preset{near}", name=shown(name),
                                                  near=near)))  # fmt: skip
    return (terms.presets or {})[name]


def _line(given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Url and body of a line of OpenAI's batches."""
    url, asked, method = given.get("url"), given.get("body"), given.get("method", "POST")
    wrong: list[Complaint] = []
    if url not in ENDPOINTS:
        text = Text("is {url}: must be one of {allowed}", url=shown(url), allowed=", ".join(ENDPOINTS))
        wrong.append(_wrong("url", text))
    if method != "POST":
        wrong.append(_wrong("method", Text("is {method}: must be POST", method=shown(method))))
    if not isinstance(asked, dict):
        wrong.append(_wrong("body", "must be an object"))
    if wrong or not isinstance(asked, dict):
        raise Wrong(*wrong)
    return str(url), dict(asked)


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    """The request of a row that is one itself; a column that means nothing here (a label) stays behind."""
    kept = sampling.names() | CONTENT | asking.GUIDED.keys() | {PRESET}
    asked = {name: value for name, value in given.items() if name in kept}
    if "instruction" in given and "messages" not in asked:
        text = "\n".join(str(part) for part in (given["instruction"], given.get("input")) if part)
        asked["messages"] = [{"role": "user", "content": text}]
    return asked


def _completed(url: str, asked: dict[str, Any], system: str | None) -> tuple[str, dict[str, Any]]:
    """Where it goes, and the body with the job's system prompt. Raises Wrong."""
    messages, prompt, place = asked.get("messages"), asked.get("prompt"), "body." if url else ""
    if url != COMPLETIONS and isinstance(messages, list) and messages:
        asked.pop("prompt", None)
        return CHAT, asked | {"messages": _with_system(messages, system, place)}
    if url == CHAT:
        raise Wrong(_wrong(f"{place}messages", "must be a list with at least one message"))
    if not isinstance(prompt, str | list) or not prompt:
        if url:
            raise Wrong(_wrong(f"{place}prompt", "must be a text, a list of texts, or a list of token ids"))
        raise Wrong(_wrong("row", 'has neither "messages" nor "prompt" nor "instruction"'))
    asked.pop("messages", None)
    return COMPLETIONS, asked


def _with_system(messages: list[Any], system: str | None, place: str) -> list[Any]:
    if (wrong := next(filter(None, map(message_complaint, messages)), None)) is not None:
        raise Wrong(_wrong(f"{place}messages", wrong))
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def _kept(check: Check) -> Check:
    """Its answers kept: a schema takes longer than all else of a row, and most rows of a file ask alike."""

    @lru_cache(maxsize=4096)
    def told(text: str) -> tuple[Complaint, ...]:
        return tuple(check(json.loads(text)))

    return lambda given: told(json.dumps(given, sort_keys=True))
