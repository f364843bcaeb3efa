"""What rows are: their kind, told by their layout or guessed; pairs, labels, plain text, tools; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared import dataset
from shared.datasetinfo import Description
from shared.errors import InvalidDataset
from shared.layout import PREFERENCE, Layout, detect, wrong_kind
from shared.rows import RowError, read_row

ASKED = [{"from": "system", "value": "Be brief"}, {"from": "human", "value": "Why?"}]
USER = {"role": "user", "content": "Why?"}
BETTER, WORSE = {"role": "assistant", "content": "So."}, {"role": "assistant", "content": "No."}


def write(folder: Path, rows: Any, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text(rows if isinstance(rows, str) else "\n".join(json.dumps(row) for row in rows))
    return path


PAIRS = [
    ({"conversations": ASKED[1:], "chosen": {"from": "gpt", "value": "So."},
      "rejected": {"from": "gpt", "value": "No."}},
     Layout.of("sharegpt", ranking=True)),
    ({"conversations": ASKED[1:], "chosen": "So.", "rejected": "No."}, Layout.of("sharegpt", ranking=True)),
    ({"messages": [USER], "chosen": BETTER, "rejected": WORSE}, Layout.of("openai", ranking=True)),
    ({"prompt": [USER], "chosen": [BETTER], "rejected": [WORSE]},
     Layout.of("openai", {"messages": "prompt", "chosen": "chosen", "rejected": "rejected"})),
    ({"instruction": "Why?", "input": "", "chosen": "So.", "rejected": "No."}, Layout.of("alpaca", ranking=True)),
    ({"q": "Why?", "good": "So.", "bad": "No."},
     Layout.of("alpaca", {"prompt": "q", "chosen": "good", "rejected": "bad"})),
    ({"prompt": "Why?", "chosen": [BETTER], "rejected": [WORSE]},
     Layout.of("alpaca", {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}, ranking=True)),
    ({"input": {"messages": [USER]}, "preferred_output": [BETTER], "non_preferred_output": [WORSE]},
     Layout.of("openai", PREFERENCE)),
]  # fmt: skip


@pytest.mark.parametrize(("row", "layout"), PAIRS)
def test_pairs_of_every_format_become_the_same_two_answers(row: dict[str, Any], layout: Layout) -> None:
    read = read_row(row, layout)
    assert (layout.kind, read.messages, read.rejected) == ("pair", [USER, BETTER], WORSE)


@pytest.mark.parametrize(("row", "layout"), [pair for pair in PAIRS if "good" not in pair[0]])
def test_pairs_are_recognised_without_a_description(row: dict[str, Any], layout: Layout) -> None:
    guessed = detect(row)
    assert guessed is not None
    assert read_row(row, guessed) == read_row(row, layout)


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        ({"instruction": "Why?", "output": "So.", "kto_tag": False},
         Layout.of("alpaca", {"prompt": "instruction", "response": "output", "kto_tag": "kto_tag"})),
        ({"messages": [USER, BETTER], "label": False},
         Layout.of("openai", {"messages": "messages", "kto_tag": "label"})),
        ({"prompt": "Why?", "completion": "So.", "label": False},
         Layout.of("alpaca", {"prompt": "prompt", "response": "completion", "kto_tag": "label"})),
    ],
)  # fmt: skip
def test_labels_are_read_and_recognised(row: dict[str, Any], layout: Layout) -> None:
    for known in (layout, detect(row)):
        assert known is not None
        read = read_row(row, known)
        assert (known.kind, read.messages, read.label) == ("labelled", [USER, BETTER], False)


def test_a_text_column_alone_is_plain_text() -> None:
    for layout in (Layout.of("alpaca", {"prompt": "text"}), detect({"text": "Once."})):
        assert layout is not None
        read = read_row({"text": "Once.", "source": "a book"}, layout)
        assert (layout.kind, read.text, read.messages) == ("text", "Once.", [])


def test_a_text_file_is_read_by_line(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffOne, and\r\n\n[two]\n", "wiki.txt")
    report = dataset.inspect(path, Description(columns={"prompt": "text"}), filename="wiki.txt")
    assert (report.container, report.num_rows, report.layout.kind) == ("text", 2, "text")
    assert [row.text for row in dataset.rows(path, report.layout, report.container)] == ["One, and", "[two]"]


def test_labels_of_a_csv_are_words(tmp_path: Path) -> None:
    path = write(tmp_path, "instruction,output,label\na,b,True\nc,True,false\n", "data.csv")
    columns = {"prompt": "instruction", "response": "output", "kto_tag": "label"}
    report = dataset.inspect(path, Description(columns=columns))
    read = [(row.messages[-1]["content"], row.label) for row in dataset.rows(path, report.layout)]
    assert read == [("b", True), ("True", False)]


@pytest.mark.parametrize(
    ("row", "column", "code"),
    [
        ({"instruction": "a", "chosen": "b", "rejected": "b"}, "rejected", "invalid_row"),
        ({"instruction": "a", "chosen": "b"}, "rejected", "missing"),
        ({"instruction": "a", "chosen": "", "rejected": "b"}, "chosen", "empty_content"),
        ({"instruction": "a", "chosen": 1, "rejected": "b"}, "chosen", "invalid_type"),
        ({"instruction": "a", "chosen": {"role": "user", "content": "b"}, "rejected": "c"}, "chosen", "invalid_role"),
        ({"instruction": "a", "chosen": [BETTER, WORSE], "rejected": "c"}, "chosen", "invalid_type"),
    ],
)
def test_pairs_without_a_preference_are_refused(row: dict[str, Any], column: str, code: str) -> None:
    with pytest.raises(RowError) as refused:
        read_row(row, Layout.of("alpaca", ranking=True))
    assert (refused.value.column, refused.value.code) == (column, code)


@pytest.mark.parametrize(
    ("given", "code"), [(None, "missing"), ("Why?", "invalid_type"), ({"messages": 1}, "invalid_type")]
)
def test_an_input_that_holds_no_messages_is_named(given: Any, code: str) -> None:
    with pytest.raises(RowError) as refused:
        read_row(
            {"input": given, "preferred_output": "a", "non_preferred_output": "b"}, Layout.of("openai", PREFERENCE)
        )
    assert (refused.value.column.startswith("input"), refused.value.code) == (True, code)


def test_a_conversation_that_is_answered_already_is_no_pair() -> None:
    row = {"messages": [USER, BETTER], "chosen": "a", "rejected": "b"}
    with pytest.raises(RowError, match="must end before the answer"):
        read_row(row, Layout.of("openai", ranking=True))


@pytest.mark.parametrize("label", [None, "true", 1, "yes", [True]])
def test_a_label_is_true_or_false_and_nothing_like_it(label: Any) -> None:
    layout = Layout.of("openai", {"messages": "messages", "kto_tag": "label"})
    with pytest.raises(RowError, match=r"label: is .* must be true"):
        read_row({"messages": [USER, BETTER], "label": label}, layout)


def test_media_that_would_be_left_out_in_silence_is_refused() -> None:
    layout = Layout.of("openai", {"messages": "messages", "images": "images"})
    assert read_row({"messages": [USER, BETTER], "images": []}, layout).messages == [USER, BETTER]
    with pytest.raises(RowError, match="holds images"):
        read_row({"messages": [USER, BETTER], "images": ["a.png"]}, layout)


@pytest.mark.parametrize(
    ("written", "content", "calls"),
    [
        ('{"name": "add", "arguments": {"a": 1}}', "", [("add", {"a": 1})]),
        ('[{"name": "add", "arguments": "{\\"a\\": 1}"}, {"name": "sub", "arguments": {}}]', "",
         [("add", {"a": 1}), ("sub", {})]),
        ('<think>Hm.</think>{"name": "add", "parameters": {}}', "<think>Hm.</think>", [("add", {})]),
        ('<think>\nHm.\n</think>\n\n[{"name": "f", "arguments": {}}]', "<think>\nHm.\n</think>\n\n", [("f", {})]),
        ("add(1)", "add(1)", []),
        ('{"answer": 1}', '{"answer": 1}', []),
    ],
)  # fmt: skip
def test_written_function_calls_become_tool_calls(written: str, content: str, calls: list[Any]) -> None:
    turns = [
        {"from": "human", "value": "Add"},
        {"from": "function_call", "value": written},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "It is 3"},
    ]
    read = read_row({"conversations": turns, "tools": '[{"name": "add"}]'}, Layout.of("sharegpt"))
    functions = [call["function"] for call in read.messages[1].get("tool_calls", [])]
    made = [(function["name"], function["arguments"]) for function in functions]
    assert (read.messages[1]["content"], made) == (content, calls)
    assert [message["role"] for message in read.messages] == ["user", "assistant", "tool", "assistant"]
    assert read.tools == [{"type": "function", "function": {"name": "add"}}]


@pytest.mark.parametrize("roles", ["user tool assistant", "user assistant tool user assistant"])
def test_an_answer_stands_between_a_user_and_a_tool(roles: str) -> None:
    messages = [{"role": role, "content": "a"} for role in roles.split()]
    with pytest.raises(RowError) as refused:
        read_row({"messages": messages}, Layout.of("openai"))
    assert refused.value.code == "invalid_order"


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"formatting": "sharegpt", "columns": {"system": "s"}}, "columns", "names no messages"),
        ({"columns": {"messages": "m"}}, "columns", "set formatting to sharegpt or openai"),
        ({"ranking": True, "columns": {"prompt": "a", "chosen": "b"}}, "columns", "names no rejected"),
        ({"columns": {"prompt": "a", "kto_tag": "b"}}, "columns", "names no response"),
        ({"formatting": "alpca"}, "formatting", "did you mean 'alpaca'"),
        ({"ranking": True}, "ranking", "holds no chosen and rejected"),
    ],
)
def test_descriptions_that_cannot_be_read_are_refused(
    tmp_path: Path, given: dict[str, Any], field: str, message: str
) -> None:
    path = write(tmp_path, [{"instruction": "a", "output": "b"}])
    with pytest.raises(InvalidDataset) as refused:
        dataset.inspect(path, Description(**given))
    assert refused.value.field == field
    assert message in refused.value.message


def test_rows_suit_a_stage_or_are_told_what_to_become() -> None:
    assert wrong_kind("pair", "dpo", "pair") is None
    assert "needs plain text" in str(wrong_kind("messages", "pt", "text"))
    assert "conversations that end with an answer" in str(wrong_kind("pair", "sft", "messages"))


def test_a_layout_is_the_same_after_the_ledger_had_it() -> None:
    for _, layout in PAIRS:
        assert Layout.from_record(layout.format, layout.as_record()) == layout
    old = Layout.from_record("openai", {"columns": {"messages": "messages"}, "tags": {}})
    assert (old.kind, old.tags["role_tag"]) == ("messages", "role")
