"""The two sides of the attempt folder: what a child writes, what its worker reads."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared import crash, keeper, tail
from shared.attempt import Attempt
from shared.folder import write_control


def lines(folder: Path) -> list[tail.Line]:
    return list(tail.read(folder / "events.jsonl", 0).lines)


def test_what_a_child_emits_its_worker_reads(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)

    attempt.emit("metrics", step=3, loss=1.5, tokens=[1, 2])
    attempt.emit("message", "careful", level="warning")
    attempt.done(output="output", num_steps=3)

    metrics, message, done = lines(tmp_path)
    assert (metrics.type, metrics.level, metrics.data) == (
        "metrics",
        "info",
        {"step": 3, "loss": 1.5, "tokens": [1, 2]},
    )
    assert abs((datetime.now(UTC) - metrics.created_at).total_seconds()) < 5
    assert (message.message, message.level) == ("careful", "warning")
    assert tail.read(tmp_path / "events.jsonl", 0).outcome == done


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    class Scalar:
        def item(self) -> float:
            return float("inf")

    Attempt(tmp_path).emit(
        "metrics", loss=float("nan"), grad_norm=Scalar(), path=Path("a"), deep={"x": [float("-inf")]}
    )

    assert lines(tmp_path)[0].data == {"loss": None, "grad_norm": None, "path": "a", "deep": {"x": [None]}}


def test_wanted_follows_the_workers_control(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    assert attempt.wanted() == "run"

    write_control(tmp_path, "shutdown")
    assert attempt.control() == {"wanted": "pause", "reason": "shutdown"}
    write_control(tmp_path, "cancel")
    assert attempt.wanted() == "cancel"
    write_control(tmp_path, "")
    assert attempt.wanted() == "run"


def test_a_failure_says_class_message_and_field(tmp_path: Path) -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch names its own."""

    Attempt(tmp_path).fail(OutOfMemoryError("CUDA out of memory"), field="per_device_train_batch_size")

    assert lines(tmp_path)[0].data["error"] == {
        "code": "out_of_memory",
        "class": "OutOfMemoryError",
        "message": "CUDA out of memory",
        "field": "per_device_train_batch_size",
    }


def test_a_line_is_read_once_it_is_whole_and_never_twice(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    assert tail.read(events, 0) == tail.Batch(lines=(), offset=0)
    Attempt(tmp_path).emit("message", "one")
    whole = events.stat().st_size
    with open(events, "ab") as file:
        file.write(b'{"time": 1, "type": "message", "mess')

    first = tail.read(events, 0)
    assert ([line.message for line in first.lines], first.offset) == (["one"], whole)
    with open(events, "ab") as file:
        file.write(b'age": "two"}\n')
    assert [line.message for line in tail.read(events, first.offset).lines] == ["two"]


@pytest.mark.parametrize(
    "line", [b"not json", b"[]", b'{"type": "message"}', b'{"time": 1e300, "type": "x"}', b"\xff\xfe\0", b"3", b"null"]
)
def test_a_line_that_is_no_event_is_a_warning(line: bytes) -> None:
    read = tail.parse(line)

    assert (read.type, read.level) == ("message", "warning")
    assert "no event" in read.message
    assert "\0" not in read.message


def test_what_postgresql_cannot_store_is_left_out() -> None:
    line = tail.parse(b'{"time": 1, "type": "message", "message": "a\\u0000b", "data": {"x": "c\\u0000", "y": NaN}}')

    assert line.message == "ab"
    assert line.data == {"x": "c", "y": None}


def test_an_endless_line_does_not_stop_the_reading(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_bytes(b"x" * (tail.CHUNK_BYTES + 10) + b"\n")
    Attempt(tmp_path).emit("message", "after")

    offset, seen = 0, []
    while (batch := tail.read(events, offset)).offset != offset:
        offset = batch.offset
        seen += [line.message for line in batch.lines]
    assert seen[-1] == "after"


def test_a_crash_is_told_by_its_signal_and_the_end_of_the_log(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "train.log").write_text("launcher\n")
    (logs / "rank0.log").write_text("".join(f"line {number}\n" for number in range(50)))

    error = crash.explain(tmp_path, "train", 137, num_oom_kills=1)

    assert error["code"] == "child_crashed"
    assert "SIGKILL" in error["message"]
    assert "-9" in error["message"]
    assert "memory ran out" in error["message"]
    assert error["message"].endswith("line 49")
    assert "line 30\n" in error["message"]
    assert "line 29\n" not in error["message"]


def test_a_crash_is_told_by_the_first_rank_that_left_an_error(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    attempt.leave_error(1, ValueError("the cause"), field="learning_rate")
    os.utime(tmp_path / "error-rank1.json", (1, 1))
    attempt.leave_error(0, ConnectionError("peer is gone"))

    error = crash.explain(tmp_path, "train", 1)

    assert error == {"code": "child_failed", "class": "ValueError", "message": "the cause", "field": "learning_rate"}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (1, "exit code 1"),
        (139, "SIGSEGV"),
        (keeper.NOT_STARTED, "not be started"),
        (255, "exit code 255"),
        (-9, "its keeper"),
    ],
)
def test_meanings_of_exit_codes(code: int, said: str) -> None:
    assert said in crash.meaning(code)
