"""OpenAI's newer form of a request (`/v1/responses`) in the words of the older one, and back.

So that presets and a deployment's own parameters lie under it as under a conversation, and are checked alike. What has
no older word stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shared.errors import Complaint
from shared.tongues import Text

#: Generation parameters that vLLM's route reads under the same name.
READ = frozenset({
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed",
    "stop", "stop_token_ids", "ignore_eos", "logit_bias", "top_logprobs", "skip_special_tokens", "parallel_tool_calls",
    "include_stop_str_in_output", "include_reasoning", "structured_outputs", "chat_template_kwargs",
})  # fmt: skip
#: What would need answers that are kept, and a replica that remembers them.
REMEMBERED = ("background", "conversation", "previous_response_id", "prompt")


def complaints(given: Mapping[str, Any]) -> Iterator[Complaint]:
    """What such a request may not have, beside parameters that are wrong."""
    for name in REMEMBERED:
        if given.get(name) not in (None, False):
            text = "cannot be taken: no answers are kept here; send the whole conversation as input"
            yield Complaint(field=name, message=Text(text), code="not_allowed")
    for at, tool in enumerate(given.get("tools") or ()):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            kind = tool.get("type") if isinstance(tool, dict) else tool
            text = "has {kind!r} at {at}: only functions can be called"
            yield Complaint(field="tools", message=Text(text, kind=kind, at=at), code="not_allowed")


def conflicts(said: Mapping[str, Any]) -> Iterator[Complaint]:
    """Of all that is said for one."""
    for name in ("n", "num_beams"):
        if (said.get(name) or 1) > 1:
            text = Text("is {count}: a response is one answer", count=said[name])
            yield Complaint(field=name, message=text)


def older(given: Mapping[str, Any]) -> dict[str, Any]:
    """The request with what has an older word under it."""
    said = dict(given)
    if isinstance(tools := given.get("tools"), list):
        said["tools"] = [{"type": "function", "function": _without_type(tool)} for tool in tools]
    if isinstance(choice := given.get("tool_choice"), dict):
        said["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    form = (given.get("text") or {}).get("format") if isinstance(given.get("text") or {}, dict) else None
    if isinstance(form, dict) and form.get("type") != "text":
        said["text"] = {name: value for name, value in given["text"].items() if name != "format"}
        schema = _without_type(form)
        said["response_format"] = {"type": form.get("type"), **({"json_schema": schema} if schema else {})}
    reasoning = given.get("reasoning")
    if isinstance(reasoning, dict) and reasoning.get("effort") is not None:
        said["reasoning_effort"] = reasoning["effort"]
    return said


def newer(said: Mapping[str, Any], parameters: frozenset[str]) -> dict[str, Any]:
    """As vLLM's route takes it; of `parameters` those that it does not read are left out."""
    body = {name: value for name, value in said.items() if name in READ or name not in parameters}
    if said.get("tools"):
        body["tools"] = [{"type": "function", **tool["function"]} for tool in said["tools"]]
    if (choice := said.get("tool_choice")) is not None:
        named = isinstance(choice, dict)
        body["tool_choice"] = {"type": "function", "name": choice["function"]["name"]} if named else choice
    if form := said.get("response_format"):
        told = {"type": form["type"], **(form.get("json_schema") or {})}
        body["text"] = {**(said.get("text") or {}), "format": told}
    if said.get("reasoning_effort") is not None:
        body["reasoning"] = {**(said.get("reasoning") or {}), "effort": said["reasoning_effort"]}
    return {name: value for name, value in body.items() if not (name == "text" and value == {})}


def _without_type(told: Any) -> Any:
    return {name: value for name, value in told.items() if name != "type"} if isinstance(told, dict) else told
