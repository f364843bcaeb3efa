"""Dataset files: what is read, how rows are understood, what is refused and with which line."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from shared import dataset
from shared.datasetinfo import Description
from shared.errors import InvalidDataset
from shared.layout import Layout
from shared.reading.found import MAX_ROW_BYTES
from shared.rows import RowError, read_row

TURN = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / "data"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def issues(path: Path, **options: Any) -> list[tuple[int | None, str, str]]:
    with pytest.raises(InvalidDataset) as refused:
        dataset.inspect(path, Description(**options))
    return [(found.line, found.field, found.code) for found in refused.value.complaints]


@pytest.mark.parametrize(
    ("content", "container", "layout", "num_rows"),
    [
        ('{"instruction": "a", "input": "", "output": "b"}\n\n{"instruction": "a", "output": "b"}', "jsonl",
         "alpaca", 2),
        ('[{"instruction": "a", "output": "b"},\n {"instruction": "c", "output": "d"}\n]\n', "json", "alpaca", 2),
        (json.dumps({"messages": TURN}), "jsonl", "openai", 1),
        (json.dumps({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}), "jsonl",
         "sharegpt", 1),
        ("\ufeffinstruction,input,output\n\"a\nb\",,c\n", "csv", "alpaca", 1),
        ('\ufeff{"prompt": "a", "completion": "b"}\n', "jsonl", "alpaca", 1),
    ],
)  # fmt: skip
def test_container_and_format_are_found_out(
    tmp_path: Path, content: str, container: str, layout: str, num_rows: int
) -> None:
    report = dataset.inspect(write(tmp_path, content))
    assert (report.container, report.layout.format, report.num_rows) == (container, layout, num_rows)


def test_each_format_becomes_the_same_messages(tmp_path: Path) -> None:
    alpaca = {"instruction": "Add", "input": "1 2", "output": "3", "system": "Be brief", "history": [["Hi", "Hello"]]}
    shared = [("system", "Be brief"), ("human", "Hi"), ("gpt", "Hello"), ("human", "Add\n1 2"), ("gpt", "3")]
    sharegpt = {"conversations": [{"from": role, "value": text} for role, text in shared]}
    names = {"human": "user", "gpt": "assistant", "system": "developer"}
    openai = {"messages": [{"role": names[role], "content": text} for role, text in shared]}
    read = [
        read_row(row, Layout.of(name)).messages
        for name, row in (("alpaca", alpaca), ("sharegpt", sharegpt), ("openai", openai))
    ]
    assert read[0] == read[1] == read[2]
    assert [message["role"] for message in read[0]] == ["system", "user", "assistant", "user", "assistant"]


def test_columns_that_are_given_leave_out_all_others() -> None:
    layout = Layout.of("alpaca", {"prompt": "q", "response": "a"})
    row = read_row({"q": "Why?", "a": "So.", "input": "ignored", "system": "ignored"}, layout)
    assert row.messages == [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


def test_tool_calls_keep_their_turns() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Add"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
        {"role": "assistant", "content": "It is 3"},
    ]
    tool = {"name": "add", "parameters": {"type": "object"}}
    row = read_row({"messages": messages, "tools": json.dumps([tool])}, Layout.of("openai"))
    assert [message["role"] for message in row.messages] == ["user", "assistant", "tool", "assistant"]
    assert row.messages[1]["tool_calls"] == [call | {"function": {"name": "add", "arguments": {}}}]
    assert row.messages[2]["tool_call_id"] == "1"
    assert row.tools == [{"type": "function", "function": tool}]


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([], "invalid_type"),
        ("text", "invalid_type"),
        (TURN[:1], "no_assistant"),
        (TURN[::-1] + TURN[1:], "invalid_order"),
        ([TURN[0], *TURN], "invalid_order"),
        ([TURN[0], {"role": "assistant", "content": " "}], "empty_content"),
        ([TURN[0], {"role": "assistant", "content": 5}], "invalid_type"),
        ([TURN[0], {"role": "assistant", "content": "a", "weight": 2}], "invalid_row"),
        ([TURN[0], {"role": "bot", "content": "a"}], "invalid_role"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, TURN[1]], "unsupported"),
        ([*TURN, {"role": "system", "content": "late"}, *TURN], "invalid_order"),
    ],
)
def test_conversations_that_teach_nothing_are_refused(messages: Any, code: str) -> None:
    with pytest.raises(RowError) as refused:
        read_row({"messages": messages}, Layout.of("openai"))
    assert refused.value.code == code


def test_every_bad_row_is_told_by_its_line_up_to_a_hundred(tmp_path: Path) -> None:
    good, bad = json.dumps({"messages": TURN}), json.dumps({"messages": TURN[:1]})
    lines = [good, bad, "", good, "{", *[bad] * 200]
    found = issues(write(tmp_path, "\n".join(lines)))
    assert found[:3] == [(2, "messages", "no_assistant"), (5, "row", "invalid_json"), (6, "messages", "no_assistant")]
    assert len(found) == dataset.MAX_ISSUES


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"  \n ", "empty_file"),
        (b"[]", "empty_file"),
        ('{"instruction": "a"}'.encode("utf-16"), "encoding"),
        (b"PAR1....", "invalid_parquet"),
        (b'{"instruction": "a\xff", "output": "b"}', "encoding"),
        (b'{"instruction": "\\u0000", "output": "b"}', "invalid_character"),
        (b'{"instruction": "a", "instruction": "b", "output": "c"}', "invalid_json"),
        (b'{"instruction": "a", "output": NaN}', "invalid_json"),
        (b'{"instruction": ' + b"[" * 100_000, "invalid_json"),
        (b"5\n", "empty_file"),
        (b"[1, 2]", "invalid_type"),
        (b'[{"instruction": "a", "output": "b"}', "invalid_json"),
        (b'[{"instruction": "a", "output": "b"} {}]', "invalid_json"),
        (b'[{"instruction": "a", "output": "b"},]', "invalid_json"),
        (b'instruction,output\n"a,b\n', "invalid_csv"),
    ],
)
def test_broken_files_are_refused_with_a_reason(tmp_path: Path, content: bytes, code: str) -> None:
    assert issues(write(tmp_path, content))[0][2] == code


def test_a_row_longer_than_allowed_is_passed_over_and_the_next_is_read(tmp_path: Path) -> None:
    long = json.dumps({"instruction": "x" * (MAX_ROW_BYTES + 10), "output": "b"})
    bad = json.dumps({"instruction": "", "output": "b"})
    expected = [(1, "row", "row_too_long"), (2, "instruction", "empty_content")]
    assert issues(write(tmp_path, f"{long}\n{bad}\n")) == expected


@pytest.mark.parametrize("is_array", [False, True])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, is_array: bool) -> None:
    row = json.dumps({"instruction": "a" * 900, "output": "b" * 100})
    rows = [row] * 20_000
    path = write(tmp_path, "[" + ",\n".join(rows) + "]" if is_array else "\n".join(rows))
    tracemalloc.start()
    assert dataset.inspect(path).num_rows == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 20_000_000
    assert peak < 10_000_000


def test_array_rows_know_the_line_on_which_they_begin(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a", "output": 1}]
    assert issues(write(tmp_path, json.dumps(rows, indent=1))) == [(6, "output", "invalid_type")]


def test_unknown_formatting_and_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({"q": "a", "a": "b"}))
    assert issues(path, formatting="alpacca")[0][1] == "formatting"
    assert issues(path, columns={"promt": "q"})[0][1] == "columns"
