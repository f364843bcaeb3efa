"""The two sides of the attempt folder: what a child writes, what its worker reads."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared import crash, failures, keeper, tail
from shared.attempt import EXITS, Attempt
from shared.folder import write_control
from shared.tongues import Text


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


def test_a_sentence_of_a_child_brings_its_chinese_along(tmp_path: Path) -> None:
    Attempt(tmp_path).emit("phase", Text("Quantizing to {format}", format="w4a16"), phase="quantize")

    [line] = tail.read(tmp_path / "events.jsonl", 0).lines
    assert line.message == "Quantizing to w4a16" and line.data["phase"] == "quantize"
    assert line.data["zh"]["message"].endswith(" w4a16") and not line.data["zh"]["message"].isascii()


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

    assert error["code"] == "host_out_of_memory"
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

    assert (error["code"], error["class"], error["rank"]) == ("child_failed", "ValueError", 1)
    assert (error["message"], error["field"]) == ("the cause", "learning_rate")


@pytest.mark.parametrize("code", [128 + 9, -9], ids=["the-child", "its-keeper"])
def test_whoever_is_killed_from_outside_a_retry_helps(tmp_path: Path, code: int) -> None:
    assert failures.completed(crash.explain(tmp_path, "train", code))["retryable"]


def leave_exits(folder: Path, *exits: tuple[int, int, int]) -> None:
    (folder / EXITS).write_text(json.dumps([dict(zip(("rank", "code", "seen_at"), one, strict=True)) for one in exits]))


GLOO = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:37842")


@pytest.mark.parametrize(
    ("exits", "others", "told"),
    [
        pytest.param([(0, 1, 5), (1, -9, 5)], GLOO, ("child_killed", 1), id="the-other-says-that-its-peer-is-gone"),
        pytest.param([(0, 1, 5), (1, -11, 5)], OSError("?"), ("child_crashed", 1), id="or-something-unheard-of"),
        pytest.param([(0, 1, 5), (1, -15, 5)], OSError("?"), ("child_failed", 0), id="the-launcher-ends-who-is-left"),
        pytest.param([(0, 1, 5), (1, -9, 36)], OSError("?"), ("child_failed", 0), id="the-deaf-too-after-a-while"),
        pytest.param([(0, 1, 5), (1, -6, 5)], OSError("?"), ("child_failed", 0), id="nccl-aborts-who-is-left"),
        pytest.param([(0, 1, 5), (1, 1, 5)], GLOO, ("peer_lost", 0), id="nobody-knows-why"),
    ],
)
def test_the_first_rank_to_fail_is_named(
    tmp_path: Path, exits: list[tuple[int, int, int]], others: Exception, told: tuple[str, int]
) -> None:
    Attempt(tmp_path).leave_error(0, others)
    leave_exits(tmp_path, *exits)
    (tmp_path / "logs").mkdir()
    for rank in (1, 0):
        (tmp_path / "logs" / f"rank{rank}.log").write_text(f"the end of {rank}\n")

    error = crash.explain(tmp_path, "train", 1)

    assert (error["code"], error["rank"]) == told
    assert error["rank"] == 0 or error["message"].endswith("the end of 1")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "host_out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "host_out_of_memory"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out_of_memory"),
        (OSError(28, "No space left on device"), "disk_full"),
        (GLOO, "peer_lost"),
        (RuntimeError("Error building extension 'cpu_adam'"), "deepspeed_build_failed"),
        (OSError("We couldn't connect to 'https://huggingface.co' to load the files"), "hub_unreachable"),
        (OSError("couldn't connect to 'https://x': outgoing traffic has been disabled"), "model_not_loaded"),
        (ModuleNotFoundError("No module named 'x'"), "missing_dependency"),
        (ConnectionError("of whom it speaks cannot be told"), "child_failed"),
        (ValueError("?"), "child_failed"),
    ],
)
def test_an_error_is_known_by_its_class_or_words(error: Exception, code: str) -> None:
    around = RuntimeError("something else")
    around.__cause__ = error
    assert {failures.code_of(error), failures.code_of(around)} == {code}


def test_what_to_do_stands_before_the_log() -> None:
    told = failures.completed({"code": "child_killed", "message": "rank 1 was ended. The end of its log:\nlast line"})

    assert told["message"] == (
        "rank 1 was ended. Somebody or something on that machine ended it. The end of its log:\nlast line"
    )
    assert (told["retryable"], told["field"]) == (True, None)


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
