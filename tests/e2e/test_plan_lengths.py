"""A recommendation counts the data's own lengths where model and data are there: cutoff_len is the P99 of them."""

from __future__ import annotations

from typing import Any

from tests.e2e.test_preview import platform
from tests.platform import Platform

__all__ = ["platform"]


def recommend(platform: Platform, **body: Any) -> dict[str, Any]:
    answer = platform.post("/v1/plans", {"model": "tiny-model", "dataset": "rows", "goal": "style"} | body)
    assert answer.status_code == 200, answer.get_json()
    made: dict[str, Any] = answer.get_json()
    return made


def test_cutoff_len_is_the_p99_of_the_data(platform: Platform) -> None:
    lengths = platform.post("/v1/datasets/rows/preview", {"model": "tiny-model"}).get_json()["lengths"]
    made = recommend(platform)
    (reason,) = [reason for reason in made["reasons"] if reason["field"] == "cutoff_len"]
    assert (made["recommended"]["cutoff_len"], reason["source"]) == (-(-lengths["p99"] // 64) * 64, "paper")
    assert str(lengths["p99"]) in reason["why"]


def test_lengths_are_counted_before_anything_is_cut(platform: Platform) -> None:
    assert recommend(platform, cutoff_len=32)["training"]["tokens_per_step"] is not None
    short, free = recommend(platform, cutoff_len=32), recommend(platform)
    assert (short["recommended"]["cutoff_len"], free["recommended"]["cutoff_len"] > 64) == (32, True)
    assert any("longer than cutoff_len 32 and cut" in finding["message"] for finding in short["findings"])


def test_a_model_without_a_tokenizer_is_recommended_for_all_the_same(platform: Platform) -> None:
    made = recommend(platform, model="bare-model")
    assert made["recommended"]["cutoff_len"] == 2048
