"""POST /v1/plans: the body of a job in, figures and findings out; nothing is queued or kept."""

from __future__ import annotations

import io
import json
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from tests.platform import ROWS, Platform, jsonl, make_platform

WORKED_CASE = Path(__file__).parent / "specs" / "worked_case.yaml"
#: DeepSeek-R1-Distill-Qwen-32B.
DISTILL: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8, "intermediate_size": 27648, "vocab_size": 152064, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "max_position_embeddings": 131072,
}  # fmt: skip
SMALL = DISTILL | {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
                   "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True}  # fmt: skip
BODY: dict[str, Any] = {"model_name_or_path": "base", "dataset": "sums", "bf16": True}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = make_platform(tmp_path_factory.mktemp("plans"))
    folder = made.settings.import_roots[0] / "small"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMALL))
    (folder / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
    assert made.post("/v1/models", {"name": "base", "model_name_or_path": "small"}).status_code == 201
    data = {"file": (io.BytesIO(jsonl(ROWS)), "sums.jsonl")}
    assert made.client.post("/v1/datasets", data=data, headers=made.headers()).status_code == 201
    return made


def plan(platform: Platform, **body: Any) -> dict[str, Any]:
    answer = platform.post("/v1/plans", BODY | body)
    assert answer.status_code == 200, answer.get_json()
    made: dict[str, Any] = answer.get_json()
    return made


def issues(platform: Platform, body: dict[str, Any]) -> dict[str, str]:
    answer = platform.post("/v1/plans", body)
    assert answer.status_code == 422, answer.get_json()
    return {issue["field"]: issue["message"] for issue in answer.get_json()["error"]["issues"]}


def worked_case(platform: Platform, **gpus: Any) -> dict[str, Any]:
    from shared.request import parse_yaml

    body = parse_yaml(WORKED_CASE.read_text()) | {"config": DISTILL, "num_rows": 40_000, "gpus": {"count": 8, **gpus}}
    answer = platform.post("/v1/plans", body)
    assert answer.status_code == 200, answer.get_json()
    made: dict[str, Any] = answer.get_json()
    return made


def told(made: dict[str, Any], field: str, source: str) -> str:
    found = [f for f in made["findings"] if (f["field"], f["source"]) == (field, source)]
    return " ".join(f"{f['message']} {f['advice']}" for f in found)


def test_a_plan_counts_the_processes_that_ray_starts(platform: Platform) -> None:
    made = plan(platform, gpus={"kind": "A100-80GB", "count": 2}, use_ray=True, ray_num_workers=2, num_rows=640)
    without = plan(platform, gpus={"kind": "A100-80GB", "count": 1}, ray_num_workers=2, num_rows=640)
    assert (made["training"]["effective_batch"], without["training"]["effective_batch"]) == (16, 8)


def test_a_plan_says_batch_steps_shape_and_memory_by_part(platform: Platform) -> None:
    made = plan(platform, gpus={"kind": "A100-80GB", "count": 2}, num_processes=2, num_train_epochs=2, num_rows=640)
    assert made["training"]["effective_batch"] == 16
    assert (made["training"]["steps_per_epoch"], made["training"]["total_steps"]) == (40, 80)
    assert made["model"]["num_weights"] == 494_032_768
    parts = made["memory"]["per_gpu_gib"]
    assert parts.keys() == {"weights", "gradients", "optimizer", "activations", "logits", "framework", "total"}
    assert sum(value for name, value in parts.items() if name != "total") == pytest.approx(parts["total"], abs=0.05)
    assert (made["memory"]["verdict"], made["memory"]["reserve_gib"]) == ("fits", 7.9)
    assert made["nearest"] is None


def test_a_yaml_posts_as_it_is(platform: Platform) -> None:
    headers = platform.headers() | {"Content-Type": "application/yaml"}
    text = "model_name_or_path: base\ndataset: sums\nlearning_rate: 5e-5\ngpus: {kind: H100-80GB, count: 1}\n"
    answer = platform.client.post("/v1/plans", data=text, headers=headers)
    assert (answer.status_code, answer.get_json()["gpus"]["has_fp8"]) == (200, True)


def test_nothing_is_queued_or_kept(platform: Platform) -> None:
    plan(platform, gpus={"kind": "T4", "count": 1})
    assert platform.get("/v1/jobs").get_json()["data"] == []


def test_the_table_has_every_way_to_share_offload_adapt_and_compute(platform: Platform) -> None:
    made = plan(platform, config=DISTILL, gpus={"kind": "A100-40GB", "count": 4})["options"]
    rows = [dict(zip(made["columns"], row, strict=True)) for row in made["rows"]]
    assert {(row["zero_stage"], row["offload"]) for row in rows} == {
        (0, "none"), (1, "none"), (2, "none"), (2, "optimizer"), (3, "none"), (3, "optimizer"), (3, "optimizer+params"),
    }  # fmt: skip
    assert {row["method"] for row in rows} == {"lora", "qlora", "full"}
    assert not [row for row in rows if row["method"] == "qlora" and row["zero_stage"] == 3]
    full = {row["zero_stage"]: row["total_gib"] for row in rows if row["method"] == "full" and row["checkpointing"]
            and row["attention"] == "flash" and row["offload"] == "none"}  # fmt: skip
    assert full[0] >= full[1] >= full[2] > full[3]


def test_the_worked_case_needs_stage_three_on_40_gb_cards_and_not_on_80_gb_ones(platform: Platform) -> None:
    small, large = worked_case(platform, kind="A100-40GB"), worked_case(platform, kind="A100-80GB")
    assert small["model"]["num_weights"] == 32_763_876_352
    assert (small["training"]["effective_batch"], small["training"]["total_steps"]) == (128, 939)
    assert (small["memory"]["verdict"], large["memory"]["verdict"]) == ("fits", "fits")
    assert "Stage 3 is needed on these 8 x A100-40GB" in told(small, "deepspeed", "estimate")
    assert "Stage 3 is not needed on these 8 x A100-80GB" in told(large, "deepspeed", "estimate")
    for made in (small, large):
        assert "31 GiB in pure bf16, 61 to 69 GiB in mixed precision" in told(made, "finetuning_type", "estimate")
        assert "what makes it possible" in told(made, "deepspeed", "paper")


def test_the_nearest_change_makes_it_fit_and_posts_as_it_is(platform: Platform) -> None:
    given = {"config": DISTILL, "gpus": {"kind": "A100-40GB", "count": 8}, "num_processes": 8, "zero_stage": 2}
    made = plan(platform, **given)
    assert made["memory"]["verdict"] == "does_not_fit"
    smaller = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    assert made["nearest"]["patch"] == {"zero_stage": 3, **smaller}
    again = plan(platform, **{**given, **made["nearest"]["patch"]})
    assert again["training"]["effective_batch"] == made["training"]["effective_batch"]
    assert again["memory"]["verdict"] == "fits"
    assert again["memory"]["per_gpu_gib"] == made["nearest"]["per_gpu_gib"]


@pytest.mark.parametrize(
    ("body", "gpus", "patch"),
    [
        ({"disable_gradient_checkpointing": True, "cutoff_len": 8192, "per_device_train_batch_size": 1},
         {"memory_gib": 16}, {"disable_gradient_checkpointing": False}),
        ({"cutoff_len": 8192}, {"memory_gib": 40},
         {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
        ({"cutoff_len": 8192, "flash_attn": "disabled", "per_device_train_batch_size": 1}, {"memory_gib": 16},
         {"flash_attn": "auto"}),
        ({"config": DISTILL, "per_device_train_batch_size": 1}, {"memory_gib": 40}, {"quantization_bit": 4}),
        ({"cutoff_len": 32768, "per_device_train_batch_size": 1}, {"memory_gib": 24}, {"cutoff_len": 16384}),
        ({"finetuning_type": "full", "config": DISTILL, "per_device_train_batch_size": 1}, {"memory_gib": 24},
         {"zero_stage": 3, "zero_offload": "optimizer+params"}),
    ],
)  # fmt: skip
def test_the_smallest_change_comes_first(
    platform: Platform, body: dict[str, Any], gpus: dict[str, Any], patch: dict[str, Any]
) -> None:
    made = plan(platform, gpus=gpus, **body)
    assert made["memory"]["verdict"] != "fits"
    assert made["nearest"]["patch"] == patch
    assert plan(platform, gpus=gpus, **{**body, **patch})["memory"]["verdict"] == "fits"


def test_unknown_models_and_datasets_are_findings_and_wrong_fields_are_refused(platform: Platform) -> None:
    made = plan(platform, model_name_or_path="nowhere", dataset="nothing")
    fields = {finding["field"]: finding["message"] for finding in made["findings"] if finding["severity"] == "warning"}
    assert "there is no model 'nowhere'" in fields["model_name_or_path"]
    assert "there is no dataset 'nothing'" in fields["dataset"]
    assert (made["model"], made["memory"], made["options"], made["training"]["total_steps"]) == (None, None, None, None)
    wrong = issues(platform, BODY | {"lora_rank": 0, "learning_rat": 1, "gpus": {"count": 0}, "config": {}})
    assert wrong.keys() >= {"lora_rank", "learning_rat", "gpus.count", "config"}


@pytest.mark.parametrize(
    ("beside", "field", "words"),
    [
        ({"gpus": {"kind": "A100-80GBB"}}, "gpus.memory_gib", "did you mean 'A100-80GB'"),
        ({"gpus": {"count": 8}}, "gpus.memory_gib", "is missing"),
        ({"gpus": {"kind": "H100-80GB", "count": "8"}}, "gpus.count", "whole number"),
        ({"gpus": {"kind": "H100-80GB", "number": 8}}, "gpus.number", "is unknown"),
        ({"gpus": "8xA100"}, "gpus", "object"),
        ({"config": {"hidden_size": 64}}, "config", "has no num_hidden_layers"),
        ({"config": DISTILL | {"hidden_size": "5120"}}, "config", "must be a whole number"),
        ({"config": DISTILL | {"vocab_size": 10**18}}, "config", "must be a whole number"),
        ({"config": DISTILL | {"num_attention_heads": 0}}, "config", "above 0"),
        ({"config": DISTILL | {"model_type": "qwen3_moe", "mlp_only_layers": "x"}}, "config", "must be a list"),
        ({"config": DISTILL | {"model_type": "qwen3_moe", "decoder_sparse_step": 0}}, "config", "1 or more"),
        ({"lengths": {"p98": 5}}, "lengths", "'p98'"),
        ({"lengths": {"p95": True}}, "lengths", "p95"),
        ({"num_rows": 0}, "num_rows", "at least 1"),
        ({"goal": "fame"}, "goal", "style"),
    ],
)
def test_what_is_told_beside_the_job_is_checked(
    platform: Platform, beside: dict[str, Any], field: str, words: str
) -> None:
    assert words in issues(platform, BODY | beside)[field]


def test_an_unknown_card_needs_its_memory(platform: Platform) -> None:
    assert plan(platform, gpus={"kind": "MI300X", "memory_gib": 192, "count": 8})["memory"]["verdict"] == "fits"


def test_what_workers_report_counts_where_no_card_is_named(platform: Platform) -> None:
    machine = {"gpus": [{"name": "NVIDIA A100-SXM4-40GB", "memory_gib": 39.4}] * 8, "host_memory_gib": 900.0}
    beat: dict[str, Any] = {"kinds": ["train"], "host": "h", "storage_id": "s", "version": "1", "machine": machine}
    platform.store.workers.beat("w", devices=["GPU-1"], **beat)
    made = plan(platform, num_processes=8)
    platform.store.workers.remove("w")
    assert (made["gpus"]["count"], made["gpus"]["memory_gib"], made["gpus"]["has_nvlink"]) == (8, 39.4, True)
    assert plan(platform)["gpus"] is None


def test_without_cards_memory_is_said_but_no_verdict(platform: Platform) -> None:
    made = plan(platform)
    assert made["memory"]["per_gpu_gib"]["total"] > 1
    assert (made["memory"]["verdict"], made["nearest"], made["options"]["columns"][-1]) == (None, None, "host_gib")
    assert any("No card is named" in finding["message"] for finding in made["findings"])


def test_a_plan_is_made_at_once(platform: Platform) -> None:
    seconds = []
    for _ in range(15):
        begun = time.perf_counter()
        plan(platform, config=DISTILL, gpus={"kind": "A100-40GB", "count": 8})
        seconds.append(time.perf_counter() - begun)
    assert statistics.median(seconds) < 0.5


@pytest.mark.parametrize(
    ("name", "row", "stage"),
    [
        ("pairs", {"prompt": "Why?", "chosen": "So.", "rejected": "No."}, "dpo"),
        ("labels", {"prompt": "Why?", "completion": "So.", "label": True}, "kto"),
        ("texts", {"text": "Once upon a time."}, "pt"),
    ],
)
def test_the_stage_that_is_recommended_is_the_one_that_the_rows_are_for(
    platform: Platform, name: str, row: dict[str, Any], stage: str
) -> None:
    data = {"file": (io.BytesIO(jsonl([row] * 40)), f"{name}.jsonl")}
    assert platform.client.post("/v1/datasets", data=data, headers=platform.headers()).status_code == 201
    asked = {"model": "base", "dataset": name, "goal": "style", "gpus": {"kind": "A100-80GB", "count": 1}}

    answer = platform.post("/v1/plans", asked).get_json()

    assert answer["recommended"]["stage"] == stage
    assert platform.post("/v1/jobs", answer["recommended"]).status_code == 201


@pytest.mark.parametrize(
    ("goal", "gpus", "rank"),
    [
        ("style", {"kind": "A100-80GB", "count": 8}, 8),
        ("style", {"kind": "A100-40GB", "count": 8}, 8),
        ("knowledge", {"kind": "RTX-4090", "count": 1}, 32),
        ("knowledge", {"kind": "T4", "count": 4}, 32),
        ("style", {"kind": "H200", "count": 1}, 8),
    ],
)
def test_a_recommended_spec_fits_and_posts_as_it_is(
    platform: Platform, goal: str, gpus: dict[str, Any], rank: int
) -> None:
    asked = {"model": "base", "dataset": "sums", "goal": goal, "gpus": gpus, "config": DISTILL, "num_rows": 40_000}
    answer = platform.post("/v1/plans", asked)
    assert answer.status_code == 200, answer.get_json()
    made = answer.get_json()
    assert made["memory"]["verdict"] == "fits"
    assert {reason["field"] for reason in made["reasons"]} >= {
        "lora_rank",
        "learning_rate",
        "cutoff_len",
        "warmup_ratio",
    }
    assert all(reason["why"] and reason["source"] for reason in made["reasons"])
    assert (made["recommended"]["lora_rank"], made["spec"]["lora_alpha"]) == (rank, 2 * rank)
    again = platform.post("/v1/plans", {**made["recommended"], "gpus": gpus, "config": DISTILL, "num_rows": 40_000})
    assert again.get_json()["spec"] == made["spec"]
    warned = {finding["field"] for finding in made["findings"] if finding["severity"] == "warning"}
    assert warned <= {"quantization_bit", "lora_rank"}, made["findings"]
    posted = platform.post("/v1/jobs", made["recommended"])
    assert posted.status_code == 201, posted.get_json()


def test_a_recommendation_keeps_what_is_given_and_follows_the_lengths(platform: Platform) -> None:
    lengths = {"p50": 90, "p95": 300, "p99": 700, "length_mean": 120, "length_max": 2100}
    asked = {"model": "base", "dataset": "sums", "goal": "style", "lora_rank": 16, "num_rows": 5000, "lengths": lengths}
    made = platform.post("/v1/plans", asked | {"gpus": {"kind": "L4", "count": 1}}).get_json()
    spec = made["spec"]
    assert (spec["lora_rank"], spec["lora_alpha"], spec["cutoff_len"], spec["neat_packing"]) == (16, 32, 704, True)
    assert (spec["lora_dropout"], spec["val_size"]) == (0.05, 0.1)
    assert "lora_rank" not in {reason["field"] for reason in made["reasons"]}
    assert made["training"]["effective_batch"] <= made["training"]["num_rows"] / 20


def test_old_cards_are_recommended_float16(platform: Platform) -> None:
    asked = {"model": "base", "dataset": "sums", "goal": "style", "gpus": {"kind": "V100-32GB", "count": 1}}
    spec = platform.post("/v1/plans", asked).get_json()["spec"]
    assert (spec["fp16"], spec["bf16"]) == (True, False)


def test_a_recommendation_refuses_wrong_fields_too(platform: Platform) -> None:
    assert "dataset" in issues(platform, {"model": "base", "goal": "style"})
    assert "lora_rank" in issues(platform, {"model": "base", "dataset": "sums", "goal": "style", "lora_rank": -1})


def test_a_submitted_job_says_too_whether_it_fits_the_workers_cards(platform: Platform) -> None:
    machine = {"gpus": [{"name": "Tesla T4", "memory_gib": 14.6}], "host_memory_gib": 30.0}
    beat: dict[str, Any] = {"kinds": ["train"], "host": "h", "storage_id": "s", "version": "1", "machine": machine}
    platform.store.workers.beat("w", devices=["GPU-1"], **beat)
    job = platform.post("/v1/jobs", BODY | {"finetuning_type": "full", "seed": 77}).get_json()
    events = platform.get(f"/v1/jobs/{job['id']}/events").get_json()["data"]
    platform.store.workers.remove("w")
    told = {event["data"]["field"]: event["message"] for event in events if event["level"] == "warning"}
    assert any("It does not fit" in message for message in told.values()), told
    assert "older than Ampere" in told["bf16"]


def test_a_job_with_all_its_findings_is_made_at_once(platform: Platform) -> None:
    seconds = []
    for seed in range(15):
        begun = time.perf_counter()
        assert platform.post("/v1/jobs", BODY | {"seed": 100 + seed}).status_code == 201
        seconds.append(time.perf_counter() - begun)
    assert statistics.median(seconds) < 0.3


def test_the_route_is_described_with_both_its_media_types(platform: Platform) -> None:
    described = platform.get("/openapi.json").get_json()
    post = described["paths"]["/v1/plans"]["post"]
    assert post["requestBody"]["content"].keys() == {"application/json", "application/yaml"}
    assert "memory" in described["components"]["schemas"]["Plan"]["properties"]
    assert "gpus" in described["components"]["schemas"]["PlanRequest"]["properties"]


@pytest.mark.parametrize(
    "given",
    [
        {"finetuning_type": "full", "gpus": {"kind": "A100-80GB", "count": 8}},
        {
            "stage": "ppo",
            "reward_model": "base",
            "reward_model_type": "full",
            "gpus": {"kind": "A100-80GB", "count": 4},
        },
        {"quantization_bit": 4, "gpus": {"kind": "L4", "count": 2}},
        {"gpus": {"kind": "L4", "count": 2}, "learning_rate": 3e-4, "packing": True, "cutoff_len": 4096},
        {},
    ],
)
def test_what_is_given_is_never_contradicted(platform: Platform, given: dict[str, Any]) -> None:
    asked = {"model": "base", "dataset": "sums", "goal": "knowledge", "num_rows": 20_000, **given}
    answer = platform.post("/v1/plans", asked)
    assert answer.status_code == 200, answer.get_json()
    made = answer.get_json()
    kept = {name: value for name, value in given.items() if name != "gpus"}
    assert {name: made["spec"][name] for name in kept} == kept
    assert not {reason["field"] for reason in made["reasons"]} & kept.keys()
    assert made["memory"]["verdict"] in ("fits", None)
