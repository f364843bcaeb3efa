"""Dataset files that are almost right: nothing of them is dropped in silence, and none brings the reader down."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from shared import dataset
from shared.errors import InvalidDataset
from shared.reading import array
from shared.reading.found import MAX_ROW_BYTES

GOOD = b'{"instruction": "a", "output": "b"}'


def issues(folder: Path, content: bytes) -> list[tuple[int | None, str, str]]:
    path = folder / "data"
    path.write_bytes(content)
    with pytest.raises(InvalidDataset) as refused:
        dataset.inspect(path)
    return [(found.line, found.field, found.code) for found in refused.value.complaints]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[" + GOOD + b"]\n[" + GOOD + b"]", 2),
        (b"[" + GOOD + b"]\n\nand more", 3),
        (b"[" + GOOD + b",\n" + GOOD[:20], 2),
    ],
    ids=["a second list", "text behind the list", "an unfinished row"],
)
def test_what_follows_a_list_is_not_dropped_in_silence(tmp_path: Path, content: bytes, line: int) -> None:
    assert issues(tmp_path, content) == [(line, "row", "invalid_json")]


@pytest.mark.parametrize("wrap", [b"%s\n%s\n", b"[%s,\n%s]"], ids=["jsonl", "array"])
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (rb'"\u0000"', "invalid_character"),
        (rb'"\ud800 half"', "invalid_character"),
        (rb'{"\udfff": 1}', "invalid_character"),
        (b"9" * 5000, "invalid_json"),
        (b"-" + b"9" * 1001, "invalid_json"),
        (b"Infinity", "invalid_json"),
    ],
)
def test_values_that_no_database_or_tokenizer_takes_are_refused(
    tmp_path: Path, wrap: bytes, wrong: bytes, code: str
) -> None:
    row = b'{"instruction": "a", "output": "b", "extra": %s}' % wrong
    assert issues(tmp_path, wrap % (GOOD, row)) == [(2, "row", code)]


@pytest.mark.parametrize("wrap", [b"%s\n", b"[%s]"], ids=["jsonl", "array"])
def test_text_about_escapes_and_whole_surrogate_pairs_are_ordinary_text(tmp_path: Path, wrap: bytes) -> None:
    path = tmp_path / "data"
    row = rb'{"instruction": "write \\u0000 and \\ud800", "output": "\ud83d\ude00 \u00e9"}'
    path.write_bytes(wrap % row)
    report = dataset.inspect(path)
    texts = [message["content"] for found in dataset.rows(path, report.layout) for message in found.messages]
    assert texts == ["write \\u0000 and \\ud800", "\U0001f600 \u00e9"]


def test_tools_nested_without_end_are_a_broken_row(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = json.dumps({"messages": turns, "tools": "[" * 100_000}).encode()
    assert issues(tmp_path, row) == [(1, "tools", "invalid_json")]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[\n" + GOOD + b',\n{"instruction": "\xff", "output": "b"}]', 3),
        (b"[" + b"\n" * 3_000_000 + b'"\xff"]', 3_000_001),
        (b"instruction,output\na,b\n\xff,c\n", 3),
        (b"instruction,output\n" + b"a,b\n" * 50_000 + b"a,\xff\n", 50_002),
    ],
    ids=["array", "array of several pieces", "csv", "csv of several pieces"],
)
def test_a_byte_that_is_not_utf8_is_told_with_its_line(tmp_path: Path, content: bytes, line: int) -> None:
    assert (line, "row", "encoding") in issues(tmp_path, content)


def test_characters_and_rows_across_pieces_of_the_file_stay_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array, "CHUNK_BYTES", 7)
    rows = [{"instruction": f"\u00e9\U0001f600 {n}", "output": "\u4e16\u754c" * n} for n in range(1, 30)]
    path = tmp_path / "data"
    path.write_text("\ufeff" + json.dumps(rows, ensure_ascii=False, indent=1))
    report = dataset.inspect(path)
    read = [[message["content"] for message in row.messages] for row in dataset.rows(path, report.layout)]
    assert read == [[row["instruction"], row["output"]] for row in rows]


def test_a_row_of_a_list_that_is_too_long_is_told_and_the_next_is_read(tmp_path: Path) -> None:
    long = b'{"instruction": "%s", "output": "b"}' % (b"x" * (MAX_ROW_BYTES + 10))
    content = b"[%s,\n%s,\n%s]" % (GOOD, long, b'{"instruction": "", "output": "b"}')
    assert issues(tmp_path, content) == [(2, "row", "row_too_long"), (3, "instruction", "empty_content")]


def test_a_csv_that_names_a_column_twice_is_refused_at_its_header(tmp_path: Path) -> None:
    assert issues(tmp_path, b"instruction,instruction,output\na,b,c\n") == [(1, "row", "invalid_csv")]


def test_a_list_is_read_in_time_that_grows_with_its_length_only(tmp_path: Path) -> None:
    path = tmp_path / "data"

    def seconds(num_rows: int) -> float:
        path.write_bytes(b"[" + b",\n".join([GOOD] * num_rows) + b"]")
        started = time.process_time()
        assert dataset.inspect(path).num_rows == num_rows
        return time.process_time() - started

    # 1.1 MB and 36 bytes a row: cutting each row off the front of the piece cost ten times the parsing.
    assert seconds(30_000) < 20 * seconds(3_000) + 0.2
