"""Every example config of LLaMA Factory runs as it is, or is told why not: field by field, as the table says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from shared import deepspeed
from tests.lf_examples import page, posting
from tests.platform import Platform

PAGE = Path(__file__).parents[2] / "docs" / "llama-factory.md"
PRESETS = sorted((posting.FOLDER / "deepspeed").glob("*.json"))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return posting.furnished(tmp_path_factory.mktemp("lf"))


def how_many(platform: Platform) -> tuple[int, int]:
    jobs = sum(platform.store.jobs.counts().values())
    return jobs, len(platform.store.deployments.list(platform.store.projects.default().id))


def test_the_table_has_every_example_and_no_other() -> None:
    assert sorted(posting.expected()) == posting.files()


@pytest.mark.parametrize("file", posting.files())
def test_an_example_is_answered_as_the_table_says(platform: Platform, file: str) -> None:
    wanted = posting.expected()[file]
    jobs, deployments = how_many(platform)
    started = time.process_time()
    answer = posting.post(platform, file)
    assert time.process_time() - started < 1
    if isinstance(wanted, str):
        assert (answer.status, answer.kind) == (201, wanted), answer.refused
        assert how_many(platform) == (jobs + (wanted != "deploy"), deployments + (wanted == "deploy"))
        return
    assert (answer.status, sorted(answer.refused)) == (422, sorted(wanted)), answer.refused
    assert {field: part for field, part in wanted.items() if part not in answer.refused[field]} == {}
    assert how_many(platform) == (jobs, deployments)


def test_an_example_that_is_accepted_holds_what_it_says(platform: Platform) -> None:
    spec = posting.post(platform, "train_lora/qwen3_lora_sft.yaml").spec
    said = {"lora_rank": 8, "cutoff_len": 2048, "max_samples": 1000, "learning_rate": 1e-4, "warmup_ratio": 0.1}
    assert {name: spec[name] for name in said} == said
    assert (spec["dataset"], spec["output_dir"]) == (["identity", "alpaca_en_demo"], "saves/qwen3-4b/lora/sft")


def test_a_label_of_a_training_before_is_the_model_that_it_made(platform: Platform) -> None:
    spec = posting.post(platform, "merge_lora/qwen3_lora_sft.yaml").spec
    assert spec["adapter_name_or_path"] == "ft:saves/qwen3-4b/lora/sft"


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_a_deepspeed_file_of_lf_is_taken_as_an_object_or_refused_by_its_key(platform: Platform, path: Path) -> None:
    config = json.loads(path.read_text())
    body = {"model_name_or_path": "Qwen/Qwen3-0.6B", "dataset": "identity", "deepspeed": config}
    answer = platform.post("/v1/jobs", body)
    refused = {"ds_z2_autotp_config.json": "tensor_parallel", "ds_z3_fp8_config.json": "comms_config"}
    if path.name in refused:
        (issue,) = answer.get_json()["error"]["issues"]
        assert issue["field"] == "deepspeed" and refused[path.name] in issue["message"]
    else:
        assert answer.get_json()["spec"]["deepspeed"] == config
        assert config["zero_optimization"]["stage"] == deepspeed.preset(path.name)["zero_optimization"]["stage"]


def test_the_committed_page_is_current(tmp_path: Path) -> None:
    assert PAGE.read_text() == page.page(tmp_path), "run: python -m tests.lf_examples.page > docs/llama-factory.md"
