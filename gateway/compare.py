"""/v1/compare: the same prompts to several deployed models, under one or several settings, side by side.

Each cell is a request as /v1/chat/completions takes it, checked and answered in the same way; what is no member of the
comparison itself goes along with each. The answer is one object, or events while the models speak. Nothing is kept.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from flask import Response, jsonify, request
from flask_smorest import Blueprint
from marshmallow import Schema, fields

from gateway import body, comparing, generation, inference
from gateway.auth import project_id
from gateway.call import Answer
from gateway.comparing import Ask, Column, Plan, Told
from gateway.http import origin
from gateway.inference import Services
from gateway.patience import Client
from gateway.proxy import Proxy
from gateway.requests import MESSAGES
from shared import asking, sampling, schema
from shared.asking import CHAT, COMPLETIONS
from shared.errors import Complaint, InvalidSpec, Unavailable
from shared.fields import Above, Check, Message, OneOf, StrictBoolean, StrictInteger, StrictObject, StrictString, refuse
from shared.tongues import Text

#: Of one comparison. A cell may take minutes, and all of them are answered within one request.
MAX_COLUMNS, MAX_ROWS, MAX_CELLS, MAX_PARALLEL = 16, 64, 256, 16
DEFAULT_PARALLEL = 4
#: Comparisons at once in one gateway process: each has threads of its own.
MAX_COMPARISONS = 16
#: A setting's name is shown, and is no parameter.
NAME = "name"
#: Longest name of a setting that is made of its values, characters.
MAX_NAME_CHARS = 60
#: For what neither the comparison nor a preset or deployment limits: a base model may go on to its context's end.
UNLESS_SAID: Mapping[str, Any] = {"max_tokens": 512}


class Prompt(fields.Raw):
    """A text, or a conversation."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not (isinstance(value, str | list) and value):
            raise refuse("must be a text, or a list of messages")
        return value


def _several(most: int) -> Check:
    text = "has {count} entries: must be 1 to {most}"
    return Check(lambda value: None if 0 < len(value) <= most else Message(text, count=len(value), most=most))


MEMBERS: dict[str, fields.Field[Any]] = {
    "models": fields.List(
        StrictString(),
        required=True,
        validate=_several(MAX_COLUMNS),
        metadata={"description": "Names as in a request; the first is what the others are compared with."},
    ),
    "prompts": fields.List(
        Prompt(),
        validate=_several(MAX_ROWS),
        metadata={"description": "What each is asked: texts, or conversations as lists of messages."},
    ),
    "messages": fields.List(
        MESSAGES.inner, validate=MESSAGES.validate, metadata={"description": "One conversation, instead of prompts."}
    ),
    "system": StrictString(metadata={"description": "System message of the prompts that have none."}),
    "settings": fields.List(
        StrictObject(),
        validate=_several(MAX_COLUMNS),
        metadata={
            "description": "Parameters of generation, each set a column for each model; `name` is shown, "
            "`preset` takes one of yours. Left out: one set, with the parameters beside it."
        },
    ),
    "endpoint": StrictString(
        validate=OneOf([CHAT, COMPLETIONS], None),
        metadata={"description": f"{COMPLETIONS} gives the texts to the models without a chat template."},
    ),
    "parallel": StrictInteger(
        validate=Above(min=1, max=MAX_PARALLEL),
        metadata={"description": f"Cells asked at once (default {DEFAULT_PARALLEL}); 1: times that nothing disturbs."},
    ),
    "stream": StrictBoolean(metadata={"description": "Answer as server-sent events."}),
}
CompareRequest = Schema.from_dict({**MEMBERS, **sampling.fields()}, name="CompareRequest")


def blueprint(services: Services, proxy: Proxy) -> Blueprint:
    made = Blueprint("compare", __name__, description="Answers of deployed models; the openai client works unmodified")
    running = threading.Semaphore(MAX_COMPARISONS)

    @made.route("/v1/compare", methods=["POST"])
    @made.doc(
        requestBody={"required": True, "content": {"application/json": {"schema": CompareRequest}}}, responses=_ANSWERS
    )
    def compare() -> Response:
        """Ask several models, or one under several settings, the same

        Members beside those of the comparison are parameters of each request (`temperature`, `max_tokens`, `seed` ...).
        A cell that fails says so in its `error`, beside the others. Where neither they nor a preset or the deployment
        say how long an answer may be, it has at most 512 tokens. With `stream`: `delta`, `answer`, `difference`, `row`
        and at last `done`.
        """
        given = body.json_object()
        endpoint, plan = planned(given, partial(generation.beams_heed, services.store, project_id()))
        # Threads have no request of Flask's.
        named: dict[str, Any] = {"project_id": project_id(), "origin": origin()}
        named["client"] = Client.of(request.environ)

        def ask(one: dict[str, Any]) -> Answer:
            return inference.ask(
                services, proxy, endpoint, one, json.dumps(one).encode(), unless_said=UNLESS_SAID, **named
            )

        if not running.acquire(blocking=False):
            raise Unavailable("{most} comparisons are being made: ask again in a moment", most=MAX_COMPARISONS)
        news = comparing.told(plan, _streamed_or_whole(ask))
        if given.get("stream"):
            return _streamed(news, plan, running.release)
        try:
            return jsonify(_answered(news, plan))
        finally:
            running.release()

    return made


def _streamed_or_whole(ask: Ask) -> Ask:
    """Beams are compared at the end: where parameters, preset or deployment ask for them nothing can be streamed."""

    def either(one: dict[str, Any]) -> Answer:
        try:
            return ask(one)
        except InvalidSpec as error:
            if not any(complaint.field == "num_beams" for complaint in error.complaints):
                raise
        return ask({name: value for name, value in one.items() if name not in ("stream", "stream_options")})

    return either


def planned(given: Mapping[str, Any], beams_heed: Callable[[str], bool]) -> tuple[str, Plan]:
    """Which route is asked, and what. `beams_heed`: of each model, see generation.py. Raises InvalidSpec with all that
    is wrong, under its member."""
    given = {name: value for name, value in given.items() if value is not None}
    complaints = sampling.complaints({name: given[name] for name in MEMBERS if name in given}, _members())
    complaints += _together(given) if not complaints else []
    if complaints:
        raise schema.refusal(complaints)
    common = {name: value for name, value in given.items() if name not in MEMBERS}
    settings = given.get("settings") or [{}]
    said = [{name: value for name, value in asking.merged(common, one).items() if name != NAME} for one in settings]
    plan = Plan(
        columns=[
            Column(name=_name(model, setting, len(settings) > 1), model=model, parameters=parameters)
            for model in given["models"]
            for setting, parameters in zip(settings, said, strict=True)
        ],
        prompts=list(_prompts(given)),
        parallel=given.get("parallel", DEFAULT_PARALLEL),
    )
    endpoint = given.get("endpoint", CHAT)
    complaints = [*_wrong_settings(endpoint, plan, settings), *_wrong_prompts(endpoint, plan, given)]
    if complaints := complaints or list(_conflicts(plan, settings, beams_heed)):
        raise schema.refusal(complaints)
    return endpoint, plan


def _together(given: Mapping[str, Any]) -> Iterator[Complaint]:
    """What does not go together, of members that are right each alone."""
    num_columns = len(given["models"]) * len(given.get("settings") or [{}])
    num_cells = num_columns * len(given.get("prompts") or [[]])
    if ("prompts" in given) == ("messages" in given):
        text = "must be given, or messages instead: one of them"
        yield Complaint(field="prompts", message=text)
    if given.get("endpoint") == COMPLETIONS and ("messages" in given or "system" in given):
        text = "has no messages: give prompts, as texts"
        yield Complaint(field="endpoint", message=text)
    if num_columns > MAX_COLUMNS:
        message = Text("times settings are {count} columns: at most {most}", count=num_columns, most=MAX_COLUMNS)
        yield Complaint(field="models", message=message)
    if num_cells > MAX_CELLS:
        message = Text("times columns are {count} answers: at most {most}", count=num_cells, most=MAX_CELLS)
        yield Complaint(field="prompts", message=message)


def _prompts(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if given.get("endpoint") == COMPLETIONS:
        yield from ({"prompt": prompt} for prompt in given["prompts"])
        return
    system = [{"role": "system", "content": given["system"]}] if "system" in given else []
    for prompt in given.get("prompts") or [given["messages"]]:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        has_system = isinstance(messages[0], dict) and messages[0].get("role") == "system"
        yield {"messages": messages if has_system else [*system, *messages]}


def _name(model: str, setting: Mapping[str, Any], is_one_of_several: bool) -> str:
    if not is_one_of_several:
        return model
    values = ", ".join(f"{name} {value}" for name, value in setting.items())
    told = setting.get(NAME) or setting.get("preset") or values[:MAX_NAME_CHARS]
    return f"{model}, {told}" if told else model


def _wrong_settings(endpoint: str, plan: Plan, settings: list[dict[str, Any]]) -> Iterator[Complaint]:
    for index, setting in enumerate(settings):
        for complaint in _wrong(endpoint, {**plan.prompts[0], **plan.columns[index].parameters}):
            if complaint.field in setting:
                yield replace(complaint, field=f"settings[{index}].{complaint.field}")
            elif index == 0 and complaint.field not in ("messages", "prompt"):
                yield complaint
        if not isinstance(setting.get(NAME, ""), str):
            yield Complaint(field=f"settings[{index}].{NAME}", message="must be text", code="invalid_type")
        if setting.get("n", plan.columns[index].parameters.get("n", 1)) not in (1, None):
            text = "must be 1 in a comparison: give several settings, each with its seed"
            yield Complaint(field=f"settings[{index}].n" if "n" in setting else "n", message=text)


def _conflicts(plan: Plan, settings: list[dict[str, Any]], beams_heed: Callable[[str], bool]) -> Iterator[Complaint]:
    """What one setting says against itself; what it says against a preset or a deployment is its cells' error."""
    told: set[str] = set()
    for number, column in enumerate(plan.columns):
        index = number % len(settings)
        place = f"settings[{index}]." if settings[index].keys() - {NAME} else ""
        for complaint in sampling.conflicts(column.parameters, beams_heed=beams_heed(column.model)):
            if (field := f"{place}{complaint.field}") not in told:
                told.add(field)
                yield replace(complaint, field=field)


def _wrong_prompts(endpoint: str, plan: Plan, given: Mapping[str, Any]) -> Iterator[Complaint]:
    for index, prompt in enumerate(plan.prompts):
        place = f"prompts[{index}]" if "prompts" in given else "messages"
        yield from (
            replace(complaint, field=place)
            for complaint in _wrong(endpoint, prompt)
            if complaint.field in ("messages", "prompt")
        )


def _wrong(endpoint: str, one: Mapping[str, Any]) -> tuple[Complaint, ...]:
    try:
        inference.check(endpoint, {"model": "any", **one})
    except InvalidSpec as error:
        return error.complaints
    return ()


@cache
def _members() -> type[Schema]:
    return Schema.from_dict(MEMBERS, name="Comparison")


# --- The answer ---


def _begun(plan: Plan) -> dict[str, Any]:
    columns = [{"name": made.name, "model": made.model, "parameters": made.parameters} for made in plan.columns]
    return {"object": "comparison", "created_at": datetime.now(UTC).isoformat(), "columns": columns}


def _answered(news: Generator[Told], plan: Plan) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [{**prompt, "answers": [], "differences": []} for prompt in plan.prompts]
    summary: list[dict[str, Any]] = []
    for kind, data in filter(None, news):
        if kind in ("answer", "difference"):
            row = rows[data["row"]]
            row[f"{kind}s"].append({name: value for name, value in data.items() if name != "row"})
        elif kind == "done":
            summary = data["summary"]
    for row in rows:
        for several in (row["answers"], row["differences"]):
            several.sort(key=lambda one: int(one["column"]))
    return {**_begun(plan), "rows": rows, "summary": summary}


def _streamed(news: Generator[Told], plan: Plan, closed: Callable[[], None]) -> Response:
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    response = Response(_events(news, plan), mimetype="text/event-stream", headers=headers)
    # Not by the generator: one that was never begun would not do it.
    response.call_on_close(closed)
    return response


def _events(news: Generator[Told], plan: Plan) -> Iterator[str]:
    with closing(news):
        yield _event("comparison", {**_begun(plan), "rows": list(plan.prompts)})
        for told in news:
            yield _event(*told) if told else ": keep-alive\n\n"


def _event(kind: str, data: Mapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


_ANSWERS: dict[str, Any] = {
    "200": {
        "description": "columns, rows with an answer and a difference for each, summary; with stream, events.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    },
    "422": {"description": "Members out of range."},
    "503": {"description": "Too many comparisons at once."},
}
