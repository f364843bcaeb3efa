"""Are the schemas right that answers and calls are to follow? Told at the door, not by a replica that was asked.

JSON Schema of 2020-12, as vLLM takes it. Where a schema is not wrong but has what vLLM's grammar cannot do, the replica
says so. What stands around a schema is checked with the other parameters (shared/answer_fields.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator, SchemaError

from shared import strict_json
from shared.errors import Complaint, InvalidRequest
from shared.fields import shown
from shared.tongues import Text

#: Deepest nesting: vLLM's own bound. Its grammar takes time that grows steeply with it.
MAX_DEPTH = 64
#: Longest schema, characters: checking one takes about a second for each million.
MAX_CHARACTERS = 262_144


def complaints(given: Mapping[str, Any]) -> Iterator[Complaint]:
    """Of generation parameters that were found right by themselves."""
    for field, schema in _schemas(given):
        if (wrong := _wrong(schema)) is not None:
            yield Complaint(field=field, message=wrong, code="invalid_schema")


def _schemas(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    told = (given.get("response_format") or {}).get("json_schema")
    if isinstance(told, dict):
        yield "response_format", told.get("schema")
    for name, schema in (("structured_outputs", (given.get("structured_outputs") or {}).get("json")),
                         ("guided_json", given.get("guided_json"))):  # fmt: skip
        if schema is not None:
            yield name, schema
    for tool in given.get("tools") or []:
        if (parameters := tool["function"].get("parameters")) is not None:
            yield "tools", parameters


def _wrong(schema: Any) -> Text | None:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    if len(text) > MAX_CHARACTERS:
        return Text("has a schema of {count} characters: at most {most}", count=len(text), most=MAX_CHARACTERS)
    try:
        schema = strict_json.loads(schema) if isinstance(schema, str) else schema
    except InvalidRequest as error:
        return Text("is no JSON: {error}", error=error.message)
    if _depth(schema) > MAX_DEPTH:
        return Text("has a schema nested more than {most} levels deep", most=MAX_DEPTH)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        place = "/".join(str(part) for part in error.absolute_path) or "the schema itself"
        return Text("is no JSON schema, at {place}: {error}", place=place[:200], error=error.message[:300])
    if (ref := _foreign_ref(schema)) is not None:
        return Text("refers to {ref}: only to places within the schema, which begin with #", ref=shown(ref))
    return None


def _depth(schema: Any) -> int:
    level, depth = [schema], 0
    while level and depth <= MAX_DEPTH:
        level = [below for node in level for below in _below(node) if isinstance(below, dict | list)]
        depth += 1
    return depth


def _below(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _foreign_ref(schema: Any) -> Any:
    """Something that would have to be fetched; None: there is nothing."""
    level = [schema]
    while level:
        for node in level:
            ref = node.get("$ref") if isinstance(node, dict) else None
            if isinstance(ref, str) and not ref.startswith("#"):
                return ref
        level = [below for node in level for below in _below(node)]
    return None
