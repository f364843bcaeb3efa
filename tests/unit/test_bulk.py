"""The rows of generation in bulk: what they ask, and what is told of those that cannot be asked."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared import bulk, questions
from shared.asking import CHAT, COMPLETIONS
from shared.bulk import Row, Terms
from shared.errors import InvalidDataset
from shared.layout import Layout
from shared.spec import Drawing, GenerateSpec, Sampling

SPEC = GenerateSpec(model="smol", dataset="d", sampling=Sampling(drawing=Drawing(max_new_tokens=5, temperature=0.5)))
TERMS = bulk.of_spec(SPEC)
MESSAGES = [{"role": "user", "content": "hi"}]
PICTURE = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def only_row(tmp_path: Path, line: dict[str, Any], terms: Terms = TERMS) -> Row:
    [row] = bulk.read(write(tmp_path / "rows.jsonl", line), terms)
    return row


def line(custom_id: str = "a", **more: Any) -> dict[str, Any]:
    body = {"model": "gpt", "messages": MESSAGES}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **more}


def test_messages_go_to_chat_and_prompts_to_completions(tmp_path: Path) -> None:
    assert only_row(tmp_path, {"messages": MESSAGES}).path == CHAT
    assert only_row(tmp_path, {"prompt": "hello"}).path == COMPLETIONS


def test_rows_of_a_list_or_a_packed_file_are_asked_alike(tmp_path: Path) -> None:
    (tmp_path / "list").write_text(json.dumps([{"prompt": "a"}, {"instruction": "b", "input": "c"}], indent=1))
    (tmp_path / "packed").write_bytes(gzip.compress(b'{"prompt": "a"}\n{"instruction": "b", "input": "c"}\n'))
    found = [[row.body.get("prompt") or row.body["messages"] for row in bulk.read(tmp_path / name, TERMS)]
             for name in ("list", "packed")]  # fmt: skip
    assert found[0] == found[1] == ["a", [{"role": "user", "content": "b\nc"}]]


def test_a_row_says_what_it_wants_else_than_the_job(tmp_path: Path) -> None:
    row = only_row(tmp_path, {"custom_id": "a", "prompt": "x", "temperature": 0.1, "model": "other", "label": 3})
    assert row.custom_id == "a"
    sent = row.request("served", {})
    assert (sent["temperature"], sent["max_tokens"], sent["model"], row.model) == (0.1, 5, "served", "smol")
    assert "label" not in sent


def test_either_name_for_the_longest_answer_replaces_the_jobs(tmp_path: Path) -> None:
    for name in ("max_new_tokens", "max_tokens", "max_completion_tokens"):
        body = only_row(tmp_path, {"prompt": "x", name: 9}).request("served", {})
        assert body["max_tokens"] == 9 and not {"max_new_tokens", "max_completion_tokens"} & body.keys()


def test_a_line_of_openais_batches_is_taken_with_all_in_its_body(tmp_path: Path) -> None:
    body = {"model": "gpt", "messages": MESSAGES, "tools": [], "stream": True}
    row = only_row(tmp_path, line(body=body))
    assert row.path == CHAT and row.body["tools"] == [] and row.body["model"] == "smol"
    assert "stream" not in row.body


def test_a_line_of_a_batch_goes_as_it_was_sent_to_the_model_that_it_names(tmp_path: Path) -> None:
    terms = bulk.of_spec(replace(SPEC, model=None), as_sent=True)
    row = only_row(tmp_path, line(), terms)
    assert (row.model, row.body) == ("gpt", {"model": "gpt", "messages": MESSAGES})
    defaults = {"temperature": 0.3, "max_new_tokens": 7}
    assert row.request("served", defaults) == {
        "model": "served", "messages": MESSAGES, "temperature": 0.3, "max_tokens": 7,
    }  # fmt: skip
    with pytest.raises(InvalidDataset, match="the job names none"):
        only_row(tmp_path, {"prompt": "x"}, terms)


def test_a_row_takes_a_preset_over_the_job_and_itself_over_that(tmp_path: Path) -> None:
    terms = replace(TERMS, presets={"calm": {"temperature": 0.2, "top_p": 0.6}})
    row = only_row(tmp_path, {"prompt": "x", "preset": "calm", "top_p": 0.9}, terms)
    sent = row.request("served", {})
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], "preset" in sent) == (0.2, 0.9, 5, False)
    with pytest.raises(InvalidDataset, match="did you mean 'calm'"):
        only_row(tmp_path, {"prompt": "x", "preset": "calmer"}, terms)


def test_an_alpaca_row_is_asked_as_one_message(tmp_path: Path) -> None:
    row = only_row(tmp_path, {"instruction": "add", "input": "1 2", "output": "3"})
    assert row.custom_id == "line-1"
    assert row.body["messages"] == [{"role": "user", "content": "add\n1 2"}]


def test_the_system_prompt_of_the_job_is_for_rows_that_have_none(tmp_path: Path) -> None:
    terms = replace(TERMS, system="be brief")
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "x"}]
    assert only_row(tmp_path, {"messages": own}, terms).body["messages"] == own
    assert only_row(tmp_path, {"messages": own[1:]}, terms).body["messages"][0]["content"] == "be brief"


def test_every_line_that_cannot_be_asked_is_told_with_its_field(tmp_path: Path) -> None:
    bad = [
        ('{"prompt"', "row"),
        ([1], "row"),
        ({"text": "x"}, "row"),
        ({"prompt": "x", "temperature": 9}, "temperature"),
        ({"prompt": "x", "custom_id": 4}, "custom_id"),
        ({"prompt": "y", "custom_id": "a"}, "custom_id"),
        (line("b", url="/v1/embeddings"), "url"),
        (line("c", method="GET"), "method"),
        (line("d", body=3), "body"),
        (line("e", body={"model": "gpt", "prompt": "x"}), "body.messages"),
        (line("f", url=COMPLETIONS), "body.prompt"),
        (line("g", body={"model": "gpt", "messages": MESSAGES, "top_p": 2}), "body.top_p"),
        (line("h", body={"model": "gpt", "messages": [{"content": "x"}]}), "body.messages"),
        (line("i", body={"model": "gpt", "messages": [{"role": "user", "content": 5}]}), "body.messages"),
        (line("j", body={"model": "gpt", "messages": [{"role": "user", "content": [PICTURE]}]}), "body.messages"),
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, "messages"),
    ]
    path = write(tmp_path / "rows.jsonl", {"prompt": "fine", "custom_id": "a"}, *(given for given, _ in bad))
    with pytest.raises(InvalidDataset, match="line 2") as caught:
        bulk.survey(path, needs_id=False)
    told = [(complaint.line, complaint.field) for complaint in caught.value.complaints]
    assert told == [(number, name) for number, (_, name) in enumerate(bad, start=2)]
    assert "as in line 1" in caught.value.complaints[5].message


def test_a_survey_tells_the_models_and_the_urls_of_a_file(tmp_path: Path) -> None:
    second = line("b", body={"model": "other", "messages": MESSAGES, "preset": "calm"})
    rows = [line("a"), second, {"custom_id": "c", "prompt": "x"}]
    found = bulk.survey(write(tmp_path / "rows.jsonl", *rows), needs_id=True)
    assert (found.num_rows, found.models, found.urls) == (3, {"gpt": 1, "other": 2, "": 3}, {CHAT: 2, "": 1})
    assert found.presets == {"calm": 2}
    many = [line(str(n), body={"model": str(n), "messages": MESSAGES}) for n in range(bulk.MAX_MODELS + 1)]
    with pytest.raises(InvalidDataset, match="more than 64 models"):
        bulk.survey(write(tmp_path / "many.jsonl", *many), needs_id=True)


def test_a_survey_tells_which_models_are_asked_for_beams_with_what_vllms_pass_over(tmp_path: Path) -> None:
    beams = {"model": "gpt", "messages": MESSAGES, "num_beams": 3}
    rows = [line("a", body=beams), line("b", body=beams | {"stop": ["."]}), line("c", body=beams | {"stop": ["."]})]
    found = bulk.survey(write(tmp_path / "rows.jsonl", *rows), needs_id=True)
    assert found.as_record()["beams"] == {"gpt": {"line": 2, "member": "stop"}}
    with pytest.raises(InvalidDataset, match=r"line 1, body\.top_p"):
        bulk.survey(write(tmp_path / "drawn.jsonl", line(body=beams | {"top_p": 0.5})), needs_id=True)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="at least one row"):
        list(bulk.read(write(tmp_path / "rows.jsonl", ""), TERMS))


def test_training_data_is_asked_up_to_its_last_answer(tmp_path: Path) -> None:
    weather = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    said = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "no"},
        {"role": "assistant", "content": "No."},
    ]
    path = write(tmp_path / "d.jsonl", {"messages": said, "tools": [weather]}, {"messages": [said[0], said[3]]})
    named = {"path": str(path), "name": "d", "format": "openai", "columns": Layout.of("openai").as_record()}
    terms = replace(TERMS, system="be brief")

    first, second = questions.read(named, terms)

    messages = first.request("served", {})["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool"]
    assert messages[2]["tool_calls"][0]["id"] == messages[3]["tool_call_id"]
    assert json.loads(messages[2]["tool_calls"][0]["function"]["arguments"]) == {"city": "Ulm"}
    assert (first.label, second.label, second.custom_id) == ("No.", "No.", "row-2")
    assert second.body["messages"] == [{"role": "system", "content": "be brief"}, said[0]]
    assert first.body["tools"] and "tools" not in second.body
    with pytest.raises(InvalidDataset, match="the job names none"):
        list(questions.read(named, replace(terms, model=None)))


def test_max_samples_counts_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *({"prompt": str(i)} for i in range(9)))
    assert len(list(bulk.read(path, replace(TERMS, max_rows=4)))) == 4
