"""A checkpoint of several nodes is named only when rank 0 sees what all wrote."""

from __future__ import annotations

from pathlib import Path
from threading import Timer

from trainer_worker.child.sight import lacking, listed


def test_files_of_other_ranks_are_waited_for_until_they_are_whole(tmp_path: Path) -> None:
    (tmp_path / "step").mkdir()
    (tmp_path / "own.pt").write_bytes(b"1234")
    late = tmp_path / "step" / "shard_1.pt"
    late.write_bytes(b"12")
    timer = Timer(0.3, late.write_bytes, [b"123456"])
    timer.start()

    told = [{"own.pt": 4, "step/shard_1.pt": 2}, {"step/shard_1.pt": 6}]

    assert lacking(tmp_path, told, patience_seconds=10) == []
    timer.join()
    assert listed(tmp_path) == {"own.pt": 4, "step/shard_1.pt": 6}


def test_what_never_comes_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.pt").write_bytes(b"1234")

    assert lacking(tmp_path, [{"own.pt": 4}, {"own.pt": 5, "other.pt": 1}], patience_seconds=0) == [
        "other.pt",
        "own.pt",
    ]
