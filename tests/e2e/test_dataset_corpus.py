"""Every bad dataset file of the table is refused at the door: its field, its line, the reason, within a second."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.corpus.datasets import FILES, Bad
from tests.platform import Platform, make_platform


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return make_platform(tmp_path_factory.mktemp("corpus"))


def stored(platform: Platform) -> list[Path]:
    folder = platform.settings.home / "artifacts" / "datasets"
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def post(platform: Platform, bad: Bad) -> tuple[Any, float]:
    """The answer, and after how many seconds it came."""
    data = {"file": (io.BytesIO(bad.content), bad.filename), **bad.form}
    began = time.monotonic()
    answer = platform.client.post("/v1/datasets", data=data, headers=platform.headers())
    return answer, time.monotonic() - began


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_refused_with_field_line_and_reason(platform: Platform, name: str) -> None:
    bad = FILES[name]
    answer, seconds = post(platform, bad)
    if seconds > 1:  # the machine may have been busy
        answer, seconds = post(platform, bad)
    error = answer.get_json()["error"]
    first = (error.get("issues") or [{"field": error["param"], "message": error["message"]}])[0]
    assert answer.status_code == bad.status, error
    assert (first["field"], first.get("line")) == (bad.field, bad.line or (1 if bad.field == "file" else None)), error
    assert re.search(bad.says, first["message"]) or bad.says in first["message"], error
    assert len(error["message"]) < 600
    assert seconds < 1
    assert platform.get("/v1/datasets").get_json()["data"] == []
    assert stored(platform) == []


def test_the_table_is_large_enough() -> None:
    assert len(FILES) >= 120
