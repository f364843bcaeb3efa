"""Every example of LLaMA Factory can be planned where it can be run, and is refused by the same fields where not."""

from __future__ import annotations

from typing import Any

import pytest

from shared import yaml
from tests.lf_examples import posting
from tests.platform import Platform

FILES = [file for file in posting.files() if not file.startswith("inference/")]
#: Qwen3-4B: what most of the examples train.
CONFIG: dict[str, Any] = {
    "model_type": "qwen3", "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728, "vocab_size": 151936,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "max_position_embeddings": 262144,
}  # fmt: skip


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return posting.furnished(tmp_path_factory.mktemp("lf"))


@pytest.mark.parametrize("file", FILES)
def test_an_example_is_planned_as_it_is_posted(platform: Platform, file: str) -> None:
    body = yaml.parse((posting.FOLDER / file).read_text())
    job = platform.post("/v1/jobs", body)
    plan = platform.post("/v1/plans", {**body, "config": CONFIG, "gpus": {"kind": "A100-80GB", "count": 8}})
    if job.status_code != 201:
        assert plan.status_code == 422
        assert fields(plan) == fields(job)
        return
    assert plan.status_code == 200, plan.get_json()
    made = plan.get_json()
    assert made["kind"] == job.get_json()["kind"]
    if made["kind"] == "train":
        assert made["memory"]["verdict"] == "fits" or made["nearest"]


def fields(answer: Any) -> set[str]:
    return {issue["field"] for issue in answer.get_json()["error"]["issues"]}
