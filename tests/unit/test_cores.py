from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared import cores


@pytest.mark.parametrize(("said", "most"), [("50000 100000", 1), ("100000 100000", 1), ("150000 100000", 2)])
def test_a_container_counts_as_many_cores_as_it_may_use(tmp_path: Path, said: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(said + "\n")
    assert cores.available(tmp_path / "cpu.max") == min(most, len(os.sched_getaffinity(0)))


def test_without_a_limit_all_cores_count(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cores.available(tmp_path / "cpu.max") == cores.available(tmp_path / "none") == len(os.sched_getaffinity(0))
