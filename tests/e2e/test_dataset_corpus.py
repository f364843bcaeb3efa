"""Every bad dataset file of the table is refused at the door: its field, its line, the reason, within a second."""

from __future__ import annotations

import io
import json
import os
import re
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
    """The answer, and how many seconds of computing it took: a busy machine takes no longer by this clock."""
    data = {"file": (io.BytesIO(bad.content), bad.filename), **bad.form}
    began = sum(os.times()[:4])
    answer = platform.client.post("/v1/datasets", data=data, headers=platform.headers())
    return answer, sum(os.times()[:4]) - began


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_refused_with_field_line_and_reason(platform: Platform, name: str) -> None:
    bad = FILES[name]
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


def test_a_description_may_be_a_file_of_its_own(platform: Platform) -> None:
    entries = {"other": {"file_name": "x.json"}, "book": {"file_name": "a.txt", "columns": {"prompt": "text"}}}
    data = {
        "file": (io.BytesIO(b"One line.\nAnother.\n"), "a.txt"),
        "dataset_info": (io.BytesIO(json.dumps(entries).encode()), "dataset_info.json"),
    }
    made = platform.client.post("/v1/datasets", data=data, headers=platform.headers()).get_json()
    assert (made["name"], made["kind"], made["num_rows"]) == ("book", "text", 2)
    assert platform.client.delete(f"/v1/datasets/{made['id']}", headers=platform.headers()).status_code == 200


def test_a_field_that_comes_as_a_file_is_not_passed_over(platform: Platform) -> None:
    data = {"file": (io.BytesIO(b'{"text": "a"}'), "a.jsonl"), "columns": (io.BytesIO(b"{}"), "columns.json")}
    answer = platform.client.post("/v1/datasets", data=data, headers=platform.headers())
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (422, "columns")
