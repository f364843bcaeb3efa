"""What a replica is asked for what was said: layers of parameters, LF's names, and what is refused before."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway import answer_schemas
from shared import answer_room, asking, responses, sampling, schema
from shared.answer_room import Room
from shared.asking import CHAT, COMPLETIONS, RESPONSES
from shared.errors import InvalidSpec
from shared.spec import DeploySpec

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (({"temperature": 0.1, "top_k": 3}, {"temperature": 0.5}), {"temperature": 0.5, "top_k": 3}),
        (({"top_p": 0.3}, {"top_p": None}), {"top_p": 0.3}),
        (({"max_new_tokens": 9}, {"max_completion_tokens": 5}), {"max_completion_tokens": 5}),
        (({"max_new_tokens": 9}, {"max_length": 50}), {"max_length": 50}),
        (({"do_sample": False}, {"temperature": 0.8}), {"temperature": 0.8}),
        (({"temperature": 0.8}, {"do_sample": False}), {"temperature": 0.8, "do_sample": False}),
        (({"temperature": 0, "top_p": 0.9}, {"do_sample": True}), {"top_p": 0.9, "do_sample": True}),
        (({"temperature": 0.8}, {"do_sample": True}), {"temperature": 0.8, "do_sample": True}),
        (({"temperature": 0.8}, {"do_sample": True, "temperature": 0}), {"temperature": 0, "do_sample": True}),
        (({"guided_regex": "a+"}, {"response_format": {"type": "text"}}), {"response_format": {"type": "text"}}),
        (
            ({"chat_template_kwargs": {"a": 1, "enable_thinking": True}}, {"enable_thinking": False}),
            {"chat_template_kwargs": {"a": 1, "enable_thinking": False}},
        ),
    ],
)
def test_later_layers_take_the_place_of_what_they_mean(layers: Any, expected: Any) -> None:
    assert asking.merged(*layers) == expected


@pytest.mark.parametrize(
    ("given", "path", "expected"),
    [
        ({"do_sample": False, "temperature": 0.9}, CHAT, {"temperature": 0.0}),
        ({"do_sample": True, "temperature": 0.9}, CHAT, {"temperature": 0.9}),
        ({"max_new_tokens": 4, "min_new_tokens": 2}, CHAT, {"max_tokens": 4, "min_tokens": 2}),
        ({"max_completion_tokens": 4}, COMPLETIONS, {"max_tokens": 4}),
        ({"max_new_tokens": 4}, RESPONSES, {"max_output_tokens": 4}),
        ({"logprobs": True, "top_logprobs": 3}, COMPLETIONS, {"logprobs": 3}),
        ({"logprobs": False, "top_logprobs": 3}, COMPLETIONS, {}),
        ({"logprobs": 2}, CHAT, {"logprobs": True, "top_logprobs": 2}),
        ({"guided_choice": ["a"]}, CHAT, {"structured_outputs": {"choice": ["a"]}}),
        ({"enable_thinking": True}, CHAT, {"chat_template_kwargs": {"enable_thinking": True}}),
        (
            {"num_beams": 4, "n": 2, "temperature": 0.7, "top_k": 5, "length_penalty": 2.0},
            CHAT,
            {"use_beam_search": True, "n": 4, "temperature": 0.0, "length_penalty": 2.0},
        ),
        ({"num_beams": 1, "max_length": 9, "preset": "x", "anything": [1]}, CHAT, {"anything": [1]}),
    ],
)
def test_names_of_others_become_those_of_the_route(given: Any, path: str, expected: Any) -> None:
    assert asking.to_openai(given, path) == expected
    assert asking.is_foreign(given, path)


@pytest.mark.parametrize(
    "given", [{"logprobs": True, "top_logprobs": 2, "max_completion_tokens": 3}, {"logprobs": None}]
)
def test_what_a_replica_reads_itself_is_not_touched(given: dict[str, Any]) -> None:
    assert not asking.is_foreign(given, CHAT)


def test_max_length_counts_only_where_the_answer_alone_is_not_limited() -> None:
    assert asking.max_length({"max_length": 30}) == 30
    assert asking.max_length({"max_length": 30, "max_tokens": 3}) is None
    assert asking.max_length({}) is None


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"stop_token_ids": [1, -1]}, "stop_token_ids"),
        ({"stop_token_ids": "1"}, "stop_token_ids"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logprobs": 21}, "logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"reasoning_effort": "hard"}, "reasoning_effort"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regexp": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs"),
        ({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, "chat_template_kwargs"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"kv_transfer_params": {}}, "kv_transfer_params"),
        ({"functions": []}, "functions"),
        ({"typical_p": 0.3}, "typical_p"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size"),
        ({"early_stopping": True}, "early_stopping"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"temperatur": 1}, "temperatur"),
        ({"top-p": 1}, "top-p"),
        ({"num_beams": 65}, "num_beams"),
        ({"seed": 2**63}, "seed"),
    ],
)
def test_what_is_wrong_by_itself_is_told_under_its_field(given: dict[str, Any], field: str) -> None:
    assert [complaint.field for complaint in sampling.complaints(given)] == [field]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_length": 9, "prompt": ["a", "b"]}, "max_length"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"function": {"name": "find"}}, "tools": [TOOL]}, "tool_choice"),
        ({"response_format": {"type": "text"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"num_beams": 4, "n": 5}, "n"),
        ({"num_beams": 4, "stop": ["a"]}, "stop"),
        ({"num_beams": 4, "repetition_penalty": 1.2}, "repetition_penalty"),
        ({"num_beams": 4, "top_p": 0.5}, "top_p"),
        ({"num_beams": 4, "do_sample": True}, "do_sample"),
        ({"use_beam_search": True, "n": 2, "min_p": 0.1}, "min_p"),
    ],
)
def test_what_speaks_against_each_other_is_told(given: dict[str, Any], field: str) -> None:
    assert not sampling.complaints(given)
    assert [complaint.field for complaint in sampling.conflicts(given)] == [field]


def test_beams_are_not_streamed_and_an_engine_may_heed_more_with_them() -> None:
    assert [made.field for made in sampling.conflicts({"num_beams": 2}, stream=True)] == ["num_beams"]
    said = {"num_beams": 2, "stop": ["a"], "repetition_penalty": 1.2, "presence_penalty": 1.0}
    assert [made.field for made in sampling.conflicts(said, beams_heed=True)] == ["presence_penalty"]


def test_how_tokens_are_drawn_is_passed_over_where_it_is_not_said_beside_own_beams() -> None:
    drawn = {"temperature": 1.3, "top_p": 0.5, "top_k": 9, "min_p": 0.1}
    assert not list(sampling.conflicts(drawn | {"num_beams": 3}, own={"num_beams": 3}))
    assert not list(sampling.conflicts(drawn | {"num_beams": 3}, own=drawn))
    assert not list(sampling.conflicts(drawn | {"num_beams": 3, "do_sample": False}))
    assert not list(sampling.conflicts({"num_beams": 3, "temperature": 1.0, "top_p": 1, "top_k": -1, "seed": 3}))
    assert [made.field for made in sampling.conflicts(drawn | {"num_beams": 3})] == list(drawn)


@pytest.mark.parametrize("seed", [-1, 1 - 2**63, 2**63 - 1])
def test_a_seed_may_be_what_vllm_takes(seed: int) -> None:
    assert not sampling.complaints({"seed": seed})


@pytest.mark.parametrize("name", ["user", "metadata", "store", "service_tier", "x_trace", "repetition_detection"])
def test_what_nobody_declared_may_pass(name: str) -> None:
    assert not sampling.complaints({name: "x"})


def nested(depth: int) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": nested(depth - 1)}} if depth else {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"type": "objct"}, "at type"),
        ({"type": "object", "properties": {"a": {"minimum": "1"}}}, "properties/a/minimum"),
        ({"$ref": "http://elsewhere/schema"}, "within the schema"),
        (nested(40), "levels deep"),
        ({"description": "x" * 300_000}, "characters"),
    ],
)
def test_a_schema_that_is_none_is_told_with_its_place(schema: Any, part: str) -> None:
    for given in (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        {"structured_outputs": {"json": schema}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]},
    ):
        [found] = answer_schemas.complaints(given)
        assert part in found.message and found.field in given


def test_a_right_schema_passes_as_object_and_as_text() -> None:
    right = {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "integer"}}}
    assert not list(answer_schemas.complaints({"structured_outputs": {"json": right}}))
    assert not list(answer_schemas.complaints({"structured_outputs": {"json": '{"type": "object"}'}}))
    assert list(answer_schemas.complaints({"structured_outputs": {"json": "{"}}))


def test_lfs_file_for_inference_says_what_its_requests_are_answered_with() -> None:
    body = {"model": "m", "temperature": 0.3, "max_new_tokens": 64, "generation": {"temperature": 0.2}, "seed": 3}
    spec = schema.load(DeploySpec, body)
    assert spec.answering.generation == {"temperature": 0.2, "max_new_tokens": 64}
    assert spec.seed == 3


def test_the_prompt_is_counted_as_it_will_be_read() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [TOOL], "temperature": 0.5}
    assert answer_room.num_tokens(body) is None
    assert json.loads(answer_room.question(body)) == {name: body[name] for name in ("model", "messages", "tools")}
    assert json.loads(answer_room.question({"prompt": ["once"]})) == {"prompt": "once"}
    assert answer_room.num_tokens({"prompt": [5, 6, 7]}) == answer_room.num_tokens({"prompt": [[5, 6, 7]]}) == 3
    assert answer_room.limited(body, CHAT, 30, 50)["max_tokens"] == 20
    assert answer_room.limited(body, RESPONSES, 30, 50)["max_output_tokens"] == 20
    with pytest.raises(InvalidSpec, match="the prompt alone has 50 tokens"):
        answer_room.limited(body, CHAT, 50, 50)
    for several in (["one", "two"], [[5, 6], [7]]):
        with pytest.raises(InvalidSpec, match="there are 2: use max_tokens"):
            answer_room.num_tokens({"prompt": several})


@pytest.mark.parametrize(("num_told", "kept"), [(1, "ad"), (2, "abde"), (3, "abcdef"), (None, "abcdef")])
def test_of_each_prompts_beams_the_best_are_told(num_told: int | None, kept: str) -> None:
    choices = [{"index": number, "text": text} for number, text in enumerate("abcdef")]
    answer = json.dumps({"id": "x", "choices": choices}).encode()
    told = json.loads(answer_room.told(answer, Room(num_beams=3, num_told=num_told)))
    assert "".join(choice["text"] for choice in told["choices"]) == kept
    assert [choice["index"] for choice in told["choices"]] == list(range(len(kept))) and told["id"] == "x"


def test_room_is_seen_to_only_where_it_is_asked_for() -> None:
    assert answer_room.of({"max_tokens": 3, "max_length": 9}) == Room()
    assert answer_room.of({"max_length": 9, "num_beams": 4, "n": 2}) == Room(max_length=9, num_beams=4, num_told=2)


def test_a_response_means_what_a_conversation_does_and_comes_back_the_same() -> None:
    function = {"name": "look", "parameters": {"type": "object"}}
    form = {"type": "json_schema", "name": "city", "schema": {"type": "object"}}
    given: dict[str, Any] = {
        "model": "m", "input": "hi", "tools": [{"type": "function", **function}], "reasoning": {"effort": "low"},
        "tool_choice": {"type": "function", "name": "look"}, "text": {"format": form}, "max_output_tokens": 5,
    }  # fmt: skip
    older = responses.older(given)
    assert older["tools"] == [{"type": "function", "function": function}]
    assert older["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "city", "schema": form["schema"]},
    }
    assert not sampling.complaints(older) and not list(sampling.conflicts(older))
    assert asking.to_openai(older, RESPONSES) == given
    under = asking.merged({"max_tokens": 50, "logprobs": True, "top_k": 3}, older)
    assert asking.to_openai(under, RESPONSES) == given | {"top_k": 3}


@pytest.mark.parametrize("given", [{"previous_response_id": "x"}, {"background": True}, {"tools": [{"type": "mcp"}]}])
def test_what_would_need_kept_answers_or_other_tools_is_refused(given: dict[str, Any]) -> None:
    assert [made.field for made in responses.complaints({"input": "hi"} | given)] == list(given)
