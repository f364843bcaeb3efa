"""Requests to /v1/responses: what they may say, what lies under them, and how their prompts are counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway import requests
from shared import answer_room, responses, sampling
from shared.asking import CHAT, COMPLETIONS, RESPONSES

TOOL = {"name": "look", "parameters": {"type": "object"}}
HI = {"role": "user", "content": "hi"}


def wrong(path: str = RESPONSES, **said: Any) -> list[str]:
    asked = {CHAT: {"messages": [HI]}, COMPLETIONS: {"prompt": "hi"}, RESPONSES: {"input": "hi"}}[path]
    return [complaint.field for complaint in requests.complaints(path, {"model": "m", **asked, **said})]


def test_each_declared_parameter_is_read_translated_or_refused() -> None:
    tables = [responses.READ, responses.TRANSLATED, frozenset(responses.SAID_AS), responses.UNREAD]
    own = {"tools", "tool_choice"}
    assert frozenset().union(*tables) == sampling.names() - own | {"use_beam_search"}
    assert sum(len(table) for table in tables) == len(frozenset().union(*tables))


@pytest.mark.parametrize("name", sorted(responses.UNREAD | responses.SAID_AS.keys()))
def test_what_vllms_route_does_not_read_is_refused_by_its_name(name: str) -> None:
    for value in ("x", 2, [1], {"a": "b"}, True):
        assert wrong(**{name: value}) == [name] or (value, responses.NEUTRAL.get(name)) == (True, 1)
    assert not wrong(**{name: None})
    assert name not in responses.NEUTRAL or not wrong(**{name: responses.NEUTRAL[name]})


@pytest.mark.parametrize(
    "said",
    [
        {"max_tokens": -5}, {"max_new_tokens": "x"}, {"max_completion_tokens": 0}, {"max_length": -5},
        {"max_output_tokens": "x"}, {"do_sample": "no"}, {"enable_thinking": "no"}, {"seed": "x"}, {"top_logprobs": 21},
        {"structured_outputs": {"json": {"type": "no"}}}, {"guided_json": {"type": "no"}}, {"input": ["hi"]},
    ],
)  # fmt: skip
def test_what_it_takes_is_checked_as_in_a_conversation(said: dict[str, Any]) -> None:
    assert wrong(**said) == list(said)


def test_the_refusal_of_a_parameter_says_what_to_do() -> None:
    asked = {"model": "m", "input": "hi", "logprobs": True, "min_tokens": 5, "n": 2}
    told = {made.field: str(made.message) for made in requests.complaints(RESPONSES, asked)}
    assert 'include: ["message.output_text.logprobs"]' in told["logprobs"]
    assert "/v1/chat/completions" in told["min_tokens"] and told["n"].startswith("is 2: a response is one answer")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
def test_options_of_a_stream_are_checked_and_need_one(path: str) -> None:
    usage = {"include_usage": True, "anything": 1}
    assert wrong(path, stream_options=usage) == wrong(path, stream_options=usage, stream=False) == ["stream_options"]
    for value in ("yes", 1, {}):
        options = {"include_usage": value}
        assert wrong(path, stream_options=options, stream=True) == ["stream_options"]
    assert not wrong(path, stream_options=usage, stream=True)
    assert not wrong(path, stream_options=None) and not wrong(path, stream_options={})


def test_a_prompt_is_counted_as_the_conversation_that_vllm_makes_of_it() -> None:
    parts = [{"type": "input_text", "text": "Look!"}]
    body = {
        "model": "m", "instructions": "Be brief.", "temperature": 0.5, "max_output_tokens": 9,
        "input": [
            {"type": "message", "role": "user", "content": parts},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "a hill"},
            {"role": "assistant", "content": "A"},
            {"role": "assistant", "content": "hill.", "status": "incomplete"},
        ],
        "tools": [{"type": "function", **TOOL}], "reasoning": {"effort": "low"}, "chat_template_kwargs": {"a": 1},
    }  # fmt: skip
    calls = [{"id": id, "type": "function", "function": {"name": "look", "arguments": "{}"}} for id in "ab"]
    assert json.loads(answer_room.question(body)) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Look!"}]},
            {"role": "assistant", "reasoning": "Hm.", "content": "I look.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "a", "content": "a hill"},
            {"role": "assistant", "content": "A"},
            {"role": "assistant", "content": "hill."},
        ],
        "tools": [{"type": "function", "function": TOOL}],
        "chat_template_kwargs": {"a": 1, "enable_thinking": True, "reasoning_effort": "low"},
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    assert json.loads(answer_room.question({"model": "m", "input": "hi"})) == {"model": "m", "messages": [HI]}


@pytest.mark.parametrize(
    "item",
    [{}, {"type": "reasoning"}, {"type": "reasoning", "content": [1]}, {"role": "assistant", "content": []},
     {"type": "function_call"}, {"type": "item_reference", "id": "x"}, {"type": 5, "role": {}}],
)  # fmt: skip
def test_an_item_of_no_known_form_is_left_to_vllm(item: dict[str, Any]) -> None:
    assert len(responses.conversation({"input": [item, item]})["messages"]) in (1, 2)
