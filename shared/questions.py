"""Training data as rows of generation in bulk: each conversation up to its last answer, which stays beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import count, islice
from typing import Any

from shared import asking, datafiles, rows
from shared.asking import CHAT, COMPLETIONS
from shared.bulk import Row, Terms
from shared.errors import InvalidDataset
from shared.layout import FORMATS


def are_in(named: Mapping[str, Any]) -> bool:
    """Whether a dataset, as run.json names it, is training data."""
    return named.get("format") in FORMATS


def read(named: Mapping[str, Any], terms: Terms) -> Iterator[Row]:
    """Raises InvalidDataset."""
    if not terms.model:
        raise InvalidDataset("rows of training data name no model, and the job names none", field="model")
    for number, row in enumerate(islice(datafiles.rows(named), terms.max_rows), start=1):
        path, asked, label = _asked(row, terms.system)
        body = asking.merged(terms.body, asked) | {"model": terms.model}
        yield Row(custom_id=f"row-{number}", path=path, model=terms.model, body=body, line=number, label=label)


def _asked(row: rows.Row, system: str | None) -> tuple[str, dict[str, Any], str | None]:
    """Where it goes, with what, and the data's own answer."""
    if row.text is not None:
        return COMPLETIONS, {"prompt": row.text}, None
    messages = _as_openai(row.messages)
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    answer = messages.pop()
    calls = answer.get("tool_calls")
    label = str(answer.get("content") or "") or (json.dumps(calls, ensure_ascii=False) if calls else "")
    return CHAT, {"messages": messages} | ({"tools": row.tools} if row.tools else {}), label


def _as_openai(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls get ids, by which results name them, and their arguments as text: so servers want them."""
    numbers, open_calls, told = count(1), list[str](), []
    for message in messages:
        if message.get("tool_calls"):
            calls = [_call(call, f"call_{next(numbers)}") for call in message["tool_calls"]]
            open_calls = [call["id"] for call in calls]
            told.append({**message, "tool_calls": calls})
        elif message["role"] == "tool" and open_calls:
            told.append({**message, "tool_call_id": open_calls.pop(0)})
        else:
            told.append(dict(message))
    return told


def _call(call: Mapping[str, Any], id: str) -> dict[str, Any]:
    function = call["function"]
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": id, "type": "function", "function": {**function, "arguments": text}}
