"""OpenAI's newer form of a request (`/v1/responses`) in the words of the older one, and back.

So that presets and a deployment's own parameters lie under it as under a conversation, and are checked alike. What has
no older word stays as it is. Parameters that vLLM's route does not read are refused in a request and left out where a
preset or a deployment has them, whose conversations want them: each declared one is in one of the tables below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shared.errors import Complaint
from shared.fields import shown
from shared.tongues import Text

#: Generation parameters that vLLM's route reads under the same name.
READ = frozenset({
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed",
    "stop", "stop_token_ids", "ignore_eos", "logit_bias", "top_logprobs", "skip_special_tokens", "parallel_tool_calls",
    "include_stop_str_in_output", "include_reasoning", "structured_outputs", "chat_template_kwargs",
})  # fmt: skip
#: Those that it reads under another name, or that are said otherwise.
TRANSLATED = frozenset({
    "do_sample", "enable_thinking", "max_new_tokens", "max_tokens", "max_completion_tokens", "max_length",
})  # fmt: skip
#: Those that a request says in words of this route. Logarithms of a preset or a deployment are left out, too: it is
#: the request that would have to include them.
SAID_AS: Mapping[str, str] = {
    "response_format": 'text: {"format": ...}',
    "reasoning_effort": 'reasoning: {"effort": ...}',
    "logprobs": 'include: ["message.output_text.logprobs"]',
}
#: Those that it does not read, and `use_beam_search`, which is vLLM's own word for beams.
UNREAD = frozenset({
    "n", "num_beams", "use_beam_search", "length_penalty", "min_tokens", "min_new_tokens", "allowed_token_ids",
    "bad_words", "prompt_logprobs", "return_token_ids", "spaces_between_special_tokens", "thinking_token_budget",
    "truncate_prompt_tokens", "truncation_side", "add_special_tokens", "add_generation_prompt",
    "continue_final_message",
})  # fmt: skip
#: Of those what says nothing, and may be said.
NEUTRAL: Mapping[str, Any] = {
    "n": 1, "num_beams": 1, "use_beam_search": False, "length_penalty": 1.0, "logprobs": False,
}  # fmt: skip
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


def unread(given: Mapping[str, Any]) -> Iterator[Complaint]:
    """About parameters of a request that would be passed over without a word."""
    for name in given.keys() & (UNREAD | SAID_AS.keys()):
        if (value := given[name]) in (None, NEUTRAL.get(name)):
            continue
        if name in ("n", "num_beams"):
            text = Text("is {count}: a response is one answer; use /v1/chat/completions", count=shown(value))
        elif name in SAID_AS:
            text = Text("is said as {how} in a response", how=SAID_AS[name])
        else:
            text = Text("is not heeded by vLLM's responses: use /v1/chat/completions, or leave it out")
        yield Complaint(field=name, message=text, code="not_allowed")


def heeded(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a preset or a deployment has, what this route can do."""
    return {name: value for name, value in kept.items() if name not in UNREAD and name != "logprobs"}


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


def conversation(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a conversation of the same prompt would say of it: vLLM makes one of each, and counts nothing else."""
    items = body.get("input")
    given = [{"role": "user", "content": items}] if isinstance(items, str) else items or []
    messages: list[dict[str, Any]] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": body["instructions"]})
    for item in given:
        _append(messages, _message(item))
    made: dict[str, Any] = {"messages": messages}
    if body.get("tools"):
        made["tools"] = [{"type": "function", "function": _without_type(tool)} for tool in body["tools"]]
    if told := _template_kwargs(body):
        made["chat_template_kwargs"] = told
    if given[-1:] and given[-1].get("status") in ("in_progress", "incomplete"):
        made |= {"add_generation_prompt": False, "continue_final_message": True}
    return made


def _message(item: Mapping[str, Any]) -> dict[str, Any]:
    kind = item.get("type", "message")
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "tool_calls": [call]}
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": _older_parts(item.get("output"))}
    if kind == "reasoning":
        return {"role": "assistant", "reasoning": _first_text(item.get("content") or item.get("summary"))}
    content = item.get("content")
    if item.get("role") == "assistant" and isinstance(content, list):
        content = _first_text(content)
    return {"role": item.get("role"), "content": _older_parts(content)}


def _older_parts(content: Any) -> Any:
    """Texts have one name in conversations, and `input_text` is none."""
    if not isinstance(content, list):
        return content
    return [{"type": "text", "text": part["text"]} if isinstance(part, dict) and "text" in part else part
            for part in content]  # fmt: skip


def _append(messages: list[dict[str, Any]], message: dict[str, Any]) -> None:
    """Thought, text and calls of one turn are items of their own, and one message."""
    last = messages[-1] if messages else {}
    said = message.keys() - {"role"}
    if message["role"] == last.get("role") == "assistant" and (said == {"tool_calls"} or said.isdisjoint(last)):
        calls = [*last.get("tool_calls", ()), *message.get("tool_calls", ())]
        last |= message | ({"tool_calls": calls} if calls else {})
    else:
        messages.append(message)


def _template_kwargs(body: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM takes whoever names an effort for somebody who wants thoughts, or none."""
    told = dict(body.get("chat_template_kwargs") or {})
    effort = (body.get("reasoning") or {}).get("effort")
    if effort is not None:
        told = {"enable_thinking": effort != "none", **told, "reasoning_effort": effort}
    return told


def _first_text(parts: Any) -> Any:
    """All that vLLM reads of an answer's or a thought's parts."""
    if isinstance(parts, list):
        return parts[0].get("text") if parts and isinstance(parts[0], dict) else ""
    return parts


def _without_type(told: Any) -> Any:
    return {name: value for name, value in told.items() if name != "type"} if isinstance(told, dict) else told
