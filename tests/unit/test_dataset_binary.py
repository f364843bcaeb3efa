"""Parquet, Arrow and gzip: the same rows as JSONL; broken or swelling files are refused and bring nothing down."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from arro3 import core, io

from shared import dataset, inspection
from shared.datasetinfo import Description
from shared.errors import InvalidDataset
from shared.rows import Row

TURNS = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
ROWS: list[dict[str, Any]] = [{"instruction": f"Why {n}?", "output": f"So {n}."} for n in range(200)]
WRITERS = {"parquet": io.write_parquet, "arrow": io.write_ipc, "arrow-stream": io.write_ipc_stream}


def table(rows: list[dict[str, Any]]) -> Any:
    texts = {name: core.Array([row[name] for row in rows], core.DataType.utf8()) for name in rows[0]}
    return core.Table.from_pydict(texts)


def write(path: Path, container: str, rows: list[dict[str, Any]]) -> Path:
    WRITERS[container](table(rows), str(path))  # type: ignore[operator]
    return path


def test_text_that_is_small_is_looked_at_where_it_comes_in(tmp_path: Path) -> None:
    small, large, binary = (tmp_path / name for name in ("small", "large", "binary"))
    small.write_text(json.dumps(ROWS))
    large.write_text("\n".join([json.dumps(ROWS[0])] * 60_000))
    write(binary, "parquet", ROWS)
    assert [inspection.is_small(path, "") for path in (small, large, binary)] == [True, False, False]
    report = inspection.inspect(large, Description(), filename="")
    assert report == dataset.inspect(large)


def read(path: Path) -> list[Row]:
    report = dataset.inspect(path)
    return list(dataset.rows(path, report.layout, report.container))


@pytest.mark.parametrize("container", WRITERS)
def test_binary_files_hold_the_same_rows_as_jsonl(tmp_path: Path, container: str) -> None:
    path = write(tmp_path / "data", container, ROWS)
    lines = tmp_path / "lines"
    lines.write_text("\n".join(json.dumps(row) for row in ROWS))
    report = inspection.inspect(path, Description(num_samples=7), filename="data")
    assert (report.container, report.num_rows, report.num_samples) == (container, len(ROWS), 7)
    assert read(path) == read(lines)


def test_parquet_keeps_conversations_with_their_empty_fields(tmp_path: Path) -> None:
    message = core.DataType.struct(
        [core.Field(name, core.DataType.utf8(), nullable=True) for name in ("role", "content", "name", "weight")]
    )
    messages = [{"role": "user", "content": "Why?", "name": None, "weight": None},
                {"role": "assistant", "content": "So.", "name": None, "weight": None}]  # fmt: skip
    struct = core.struct_array(
        [core.Array([row[name] for row in messages], core.DataType.utf8()) for name in messages[0]],
        fields=[message_field for message_field in message.fields],
    )
    offsets = core.Array([0, 2], core.DataType.int32())
    lists = core.list_array(offsets, struct)
    path = tmp_path / "data"
    io.write_parquet(core.Table.from_arrays([lists], names=["messages"]), str(path))
    assert read(path)[0].messages == TURNS


def test_a_bad_row_of_parquet_is_told_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "data", "parquet", [*ROWS, {"instruction": "", "output": "x"}, ROWS[0]])
    with pytest.raises(InvalidDataset) as refused:
        inspection.inspect(path, Description(), filename="x.parquet")
    assert [(issue.line, issue.field) for issue in refused.value.complaints] == [(201, "instruction")]
    assert "row 201" in refused.value.message


@pytest.mark.parametrize("container", WRITERS)
@pytest.mark.parametrize("damage", ["cut", "half", "noise", "length"])
def test_broken_binary_files_are_refused(tmp_path: Path, container: str, damage: str) -> None:
    whole = write(tmp_path / "data", container, ROWS).read_bytes()
    noise = bytes(255 - byte for byte in whole[8:-8])
    broken = {
        "cut": whole[:-20],
        "half": whole[: len(whole) // 2],
        "noise": whole[:8] + noise + whole[-8:],
        "length": whole[:4] + b"\xff\xff\xff\x7f" + whole[8:-8] + b"\xff\xff\xff\x7f" + whole[-4:],
    }[damage]
    (tmp_path / "data").write_bytes(broken)
    with pytest.raises(InvalidDataset) as refused:
        inspection.inspect(tmp_path / "data", Description(), filename="data")
    assert refused.value.complaints[0].code in ("invalid_parquet", "invalid_arrow", "too_costly", "unsupported")


def test_a_parquet_file_that_swells_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "data"
    io.write_parquet(table([{"instruction": "x" * 2_000_000, "output": "b"}] * 50), str(path), compression="zstd(3)")
    assert path.stat().st_size < 100_000
    with pytest.raises(InvalidDataset, match=r"swells|memory"):
        inspection.inspect(path, Description(), filename="data")


@pytest.mark.parametrize("is_array", [False, True])
def test_packed_text_is_read_like_the_text(tmp_path: Path, is_array: bool) -> None:
    text = json.dumps(ROWS) if is_array else "\n".join(json.dumps(row) for row in ROWS)
    (tmp_path / "data").write_bytes(gzip.compress(text.encode()))
    assert len(read(tmp_path / "data")) == len(ROWS)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(b'{"text": "a"}\n' * 5_000_000), "unpacks to more than 100 times"),
        (gzip.compress(b'{"text": "a"}\n' * 50)[:-9], "not a whole gzip file"),
        (gzip.compress(os.urandom(100_000))[:50_000], "not a whole gzip file|binary|UTF-8"),
        (gzip.compress(gzip.compress(b'{"text": "a"}')), "binary"),
        (gzip.compress(b"PAR1xxxx"), "gzip"),
    ],
    ids=["bomb", "cut", "noise", "twice", "parquet inside"],
)
def test_packed_files_that_are_broken_or_swell_are_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(InvalidDataset, match=told):
        inspection.inspect(tmp_path / "data", Description(), filename="data.jsonl.gz")


def test_a_file_that_takes_more_memory_than_it_may_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data"
    # One batch is held whole, and the process may have 2 GiB: a batch that says it has more ends it.
    whole = write(path, "arrow-stream", ROWS).read_bytes()
    path.write_bytes(whole[:4] + (2**31 - 8).to_bytes(4, "little") + whole[8:])
    with pytest.raises(InvalidDataset) as refused:
        inspection.inspect(path, Description(), filename="data")
    assert refused.value.complaints[0].code in ("too_costly", "invalid_arrow")
