"""/v1/compare of the whole gateway app: two replicas on real sockets, a ledger, and what is asked of each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.worddiff import difference
from tests.unit.served import Served, serving_models
from tests.unit.upstream import event

DONE = b"data: [DONE]\n\n"


def usage(tokens: int) -> bytes:
    return b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": %d}}\n\n' % tokens


def end(reason: str) -> bytes:
    return b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "%s"}]}\n\n' % reason.encode()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_models(
        tmp_path_factory.mktemp("compare"), "base", "tuned", narrow={"max_concurrent_requests": 1}
    ) as served:
        yield served


@pytest.fixture
def served(deployed: Served) -> Served:
    deployed.forget()
    return deployed


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for part in text.split("\n\n"):
        if part.startswith("event: "):
            kind, _, data = part.removeprefix("event: ").partition("\ndata: ")
            found.append((kind, json.loads(data)))
    return found


def test_the_same_prompts_go_to_each_model_under_each_setting(served: Served) -> None:
    served.upstreams["base"].pieces = [event(""), event("a red "), event("fox"), end("stop"), usage(2), DONE]
    served.upstreams["tuned"].pieces = [event("a blue fox"), end("length"), usage(3), DONE]
    settings = [{"name": "cold", "temperature": 0}, {"max_new_tokens": 5}]
    answer = served.compare({
        "models": ["base", "tuned"], "prompts": ["What?", [{"role": "user", "content": "Who?"}]],
        "system": "Be short.", "settings": settings, "max_tokens": 9, "seed": 1, "parallel": 2,
    })  # fmt: skip

    assert answer.status_code == 200
    told = answer.get_json()
    assert [column["name"] for column in told["columns"]] == [
        "base, cold", "base, max_new_tokens 5", "tuned, cold", "tuned, max_new_tokens 5",
    ]  # fmt: skip
    first = told["rows"][0]
    assert [cell["text"] for cell in first["answers"]] == ["a red fox", "a red fox", "a blue fox", "a blue fox"]
    assert {(cell["finish_reason"], cell["completion_tokens"]) for cell in first["answers"]} == {
        ("stop", 2), ("length", 3),
    }  # fmt: skip
    assert all(cell["seconds"] >= cell["first_token_seconds"] > 0 for cell in first["answers"])
    assert first["differences"][1]["changes"] == [
        {"op": "equal", "text": "a "}, {"op": "removed", "text": "red "}, {"op": "added", "text": "blue "},
        {"op": "equal", "text": "fox"},
    ]  # fmt: skip
    assert [found["is_same"] for found in first["differences"]] == [True, False, False]
    assert told["summary"][2] == told["summary"][2] | {"column": 2, "num_answers": 2, "completion_tokens": 6}
    sent = served.sent("base")
    assert len(sent) == 4
    assert {one["messages"][0]["content"] for one in sent} == {"Be short."}
    assert sorted((one.get("temperature", -1), one["max_tokens"], one["seed"]) for one in sent) == [
        (-1, 5, 1), (-1, 5, 1), (0, 9, 1), (0, 9, 1),
    ]  # fmt: skip


def test_a_cell_that_fails_says_so_beside_the_others_while_they_stream(served: Served) -> None:
    served.upstreams["base"].pieces = [event("a"), event("b"), end("stop"), usage(2), DONE]
    served.upstreams["tuned"].pieces = [event("a"), 0]
    body = {"models": ["base", "tuned", "bose"], "messages": [{"role": "user", "content": "What?"}], "stream": True}
    answer = served.compare(body)

    assert answer.content_type.startswith("text/event-stream")
    told = events(answer.get_data(as_text=True))
    assert told[0][0] == "comparison" and told[-1][0] == "done"
    deltas = [(data["column"], data["text"]) for kind, data in told if kind == "delta"]
    assert [text for column, text in deltas if column == 0] == ["a", "b"]
    cells = {data["column"]: data for kind, data in told if kind == "answer"}
    assert cells[0]["error"] is None
    assert cells[1]["text"] == "a" and "went away while it answered" in cells[1]["error"]["message"]
    assert cells[2]["error"]["code"] == "model_not_found" and "did you mean 'base'?" in cells[2]["error"]["message"]
    assert not [data for kind, data in told if kind == "difference"]
    assert [column["num_failed"] for column in told[-1][1]["summary"]] == [0, 1, 1]


def test_who_leaves_a_comparison_ends_its_generations(served: Served) -> None:
    upstreams = [served.upstreams["base"], served.upstreams["tuned"]]
    for upstream in upstreams:
        upstream.pieces, upstream.pause_seconds = [event("x")] * 1000, 0.01
    body = {"models": ["base", "tuned"], "prompts": ["What?"] * 9, "stream": True}
    answer = served.compare(body, buffered=False)
    news = iter(answer.response)
    while b"event: delta" not in bytes(next(news)):
        pass
    answer.close()

    assert all(upstream.hung_up.wait(5) for upstream in upstreams)
    # Of the eighteen only those that had begun were asked.
    assert sum(len(upstream.requests) for upstream in upstreams) <= 4


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"models": []}, "models"),
        ({"models": ["a"] * 17}, "models"),
        ({"models": ["a"] * 5, "settings": [{}] * 4}, "models"),
        ({"models": ["a"] * 8, "prompts": ["x"] * 33}, "prompts"),
        ({"prompts": ["x"] * 65}, "prompts"),
        ({"prompts": [7]}, "prompts"),
        ({"prompts": ["x", [{"content": "no role"}]]}, "prompts[1]"),
        ({"prompts": None}, "prompts"),
        ({"messages": [{"role": "user", "content": "x"}]}, "prompts"),
        ({"temperature": 3}, "temperature"),
        ({"settings": [{}, {"top_p": 0}]}, "settings[1].top_p"),
        ({"settings": [{"name": 3}]}, "settings[0].name"),
        ({"settings": [{"n": 2}]}, "settings[0].n"),
        ({"n": 2}, "n"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"endpoint": "/v1/completions", "system": "x"}, "endpoint"),
        ({"parallel": 17}, "parallel"),
        ({"min_tokens": 9, "settings": [{"max_tokens": 10}, {"max_tokens": 5}]}, "settings[1].min_tokens"),
        ({"models": ["base", "tuned"], "settings": [{}, {"num_beams": 2, "stop": ["x"]}]}, "settings[1].stop"),
        ({"min_tokens": 9, "max_tokens": 5}, "min_tokens"),
    ],
)
def test_what_is_out_of_range_is_refused_under_its_member(served: Served, wrong: dict[str, Any], field: str) -> None:
    answer = served.compare({"models": ["base"], "prompts": ["x"]} | wrong)
    assert answer.status_code == 422
    assert [issue["field"] for issue in answer.get_json()["error"]["issues"]] == [field]


def test_an_answer_of_unlimited_length_has_a_bound_in_a_comparison(served: Served) -> None:
    served.platform.client.put(
        "/v1/presets/long", json={"parameters": {"max_new_tokens": 900}}, headers=served.platform.headers()
    )
    served.upstreams["base"].pieces = [event("a"), end("stop"), DONE]
    settings = [{}, {"max_completion_tokens": 7}, {"preset": "long"}]
    served.compare({"models": ["base"], "prompts": ["x"], "settings": settings}).get_json()
    assert sorted(one["max_tokens"] for one in served.sent("base")) == [7, 512, 900]


def test_models_without_a_chat_template_continue_texts(served: Served) -> None:
    served.upstreams["base"].pieces = [b'data: {"choices": [{"index": 0, "text": " upon"}]}\n\n', usage(1), DONE]
    body = {"models": ["base"], "prompts": ["Once"], "endpoint": "/v1/completions"}
    told = served.compare(body).get_json()
    assert told["rows"][0]["prompt"] == "Once"
    assert told["rows"][0]["answers"][0]["text"] == " upon"
    assert served.upstreams["base"].requests[0]["path"] == "/v1/completions"


def test_words_are_compared_in_order_whatever_the_script() -> None:
    assert difference("", "").similarity == 1.0
    assert list(difference("\u6211\u7231\u4f60", "\u6211\u6068\u4f60").changes) == [
        ("equal", "\u6211"), ("removed", "\u7231"), ("added", "\u6068"), ("equal", "\u4f60"),
    ]  # fmt: skip
    long = difference("a " + "b " * 2000 + "c", "a " + "d " * 2000 + "c")
    assert [op for op, _ in long.changes] == ["equal", "removed", "added", "equal"]
    for first, second in (("one  two\nthree", "one two four"), ("x", ""), ("a b a b", "b a b")):
        found = difference(first, second)
        assert "".join(text for op, text in found.changes if op != "added") == first
        assert "".join(text for op, text in found.changes if op != "removed") == second


def test_beams_and_presets_are_settings_like_others(served: Served) -> None:
    whole = {"choices": [{"index": 0, "message": {"content": "both"}, "finish_reason": "stop"}], "usage": None}
    served.upstreams["base"].body = json.dumps(whole).encode()
    served.platform.client.put(
        "/v1/presets/beams", json={"parameters": {"num_beams": 2}}, headers=served.platform.headers()
    )
    settings = [{"preset": "beams"}, {"num_beams": 3}, {"preset": "none"}]
    told = served.compare({"models": ["base"], "prompts": ["What?"], "settings": settings}).get_json()

    answers = told["rows"][0]["answers"]
    assert [answer["text"] for answer in answers] == ["both", "both", ""]
    assert [answer["error"] and answer["error"]["param"] for answer in answers] == [None, None, "preset"]
    assert [column["name"] for column in told["columns"]] == ["base, beams", "base, num_beams 3", "base, none"]
    assert sorted(one["n"] for one in served.sent("base") if one["use_beam_search"] and not one.get("stream")) == [2, 3]


def test_a_cell_waits_for_room_among_the_requests_of_others(served: Served) -> None:
    served.upstreams["narrow"].pieces, served.upstreams["narrow"].pause_seconds = [event("a"), end("stop"), DONE], 0.1
    began = time.monotonic()
    told = served.compare({"models": ["narrow"], "prompts": ["What?"] * 3, "parallel": 3}).get_json()
    took = time.monotonic() - began

    assert [row["answers"][0]["text"] for row in told["rows"]] == ["a", "a", "a"]
    # One after the other: their times add up to no more than all of it, so none has its wait in it.
    assert sum(row["answers"][0]["seconds"] for row in told["rows"]) <= took
