"""The doctor: the white paper's worked case as the paper has it, and our figures beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared import request, schema
from shared.advice.case import billions_of
from shared.advice.doctor import Finding, findings
from shared.spec import ExportSpec, TrainSpec

WORKED_CASE = Path(__file__).parent / "specs" / "worked_case.yaml"
SMALL = {"model_name_or_path": "base", "dataset": "facts"}


def train(**body: Any) -> TrainSpec:
    return schema.load(TrainSpec, {**SMALL, **body})


def said(found: list[Finding], field: str, source: str) -> str:
    return " ".join(f"{f.message} {f.advice}" for f in found if (f.field, f.source) == (field, source))


def fields(found: list[Finding], severity: str) -> set[str]:
    return {finding.field for finding in found if finding.severity == severity}


@pytest.fixture(scope="module")
def worked_case() -> list[Finding]:
    return findings(request.load(request.parse_yaml(WORKED_CASE.read_text()))[1], num_rows=40_000)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("model_name_or_path", "good choice for middle and large tasks"),
        ("finetuning_type", "only realistic method"),
        ("cutoff_len", "conservative; longer text is paid for with batch size"),
        ("learning_rate", "golden trio"),
        ("gradient_accumulation_steps", "1 x 16 x 8 = 128. Accumulation trades time for memory"),
        ("lora_rank", "style and format, not at knowledge"),
        ("lora_alpha", "2 x rank 8: sound"),
        ("deepspeed", "8 devices: what makes it possible"),
        ("warmup_steps", "5 to 10 % of all steps: 46 to 93 of about 939"),
        ("val_size", "cannot be judged"),
        ("report_to", "strongly recommended"),
    ],
)
def test_the_worked_case_is_diagnosed_as_the_paper_has_it(worked_case: list[Finding], field: str, words: str) -> None:
    assert words in said(worked_case, field, "paper")


@pytest.mark.parametrize(
    ("field", "source", "words"),
    [
        ("finetuning_type", "estimate", "30 GiB in pure bf16, 60 to 67 GiB in mixed precision"),
        ("deepspeed", "estimate", "about 60 GiB a device with stage 0, 1 or 2, and 11 GiB with stage 3"),
        ("deepspeed", "estimate", "needed on 40 GB cards, not on 80 GB ones"),
        ("per_device_train_batch_size", "estimate", "8 x 2 gives the same batch with 1/8 of the gathers"),
        ("cutoff_len", "estimate", "1 already"),
        ("learning_rate", "reference", "in this stage use 1e-4"),
        ("lora_rank", "reference", "follows data and task"),
    ],
)
def test_where_we_differ_the_figures_are_said(worked_case: list[Finding], field: str, source: str, words: str) -> None:
    assert words in said(worked_case, field, source)


def test_the_flaws_of_the_worked_case_are_its_warnings(worked_case: list[Finding]) -> None:
    assert fields(worked_case, "warning") == {"warmup_steps", "val_size"}
    assert [finding.severity for finding in worked_case[:2]] == ["warning", "warning"]


def test_a_repaired_case_has_no_warnings() -> None:
    spec = train(bf16=True, warmup_ratio=0.05, val_size=0.1, lr_scheduler_type="cosine", logging_steps=10)
    assert fields(findings(spec, num_rows=50_000), "warning") == set()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"learning_rate": 0.01}, "learning_rate"),
        ({"learning_rate": 1e-6}, "learning_rate"),
        ({"finetuning_type": "full", "learning_rate": 1e-4}, "learning_rate"),
        ({"lora_alpha": 8}, "lora_alpha"),
        ({"lora_rank": 64}, "lora_rank"),
        ({"finetuning_type": "full", "lora_rank": 64}, "lora_rank"),
        ({"freeze_trainable_layers": 4}, "freeze_trainable_layers"),
        ({"packing": True}, "packing"),
        ({"num_train_epochs": 30}, "num_train_epochs"),
        ({"bf16": False}, "bf16"),
        ({"zero_stage": 2}, "zero_stage"),
        ({"template": "llama2", "model_name_or_path": "Llama-3.1-8B-Instruct"}, "template"),
        ({"finetuning_type": "full", "model_name_or_path": "Llama-3.1-8B"}, "finetuning_type"),
        ({"model_name_or_path": "Qwen2.5-72B", "num_processes": 8}, "zero_stage"),
        ({"warmup_steps": 50, "max_steps": 60}, "warmup_steps"),
        ({"max_steps": 60}, "logging_steps"),
    ],
)
def test_a_doubtful_setting_is_a_warning_on_its_field(body: dict[str, Any], field: str) -> None:
    assert field in fields(findings(train(**{"bf16": True, **body})), "warning")


def test_a_batch_too_large_for_the_data_is_a_warning() -> None:
    assert "gradient_accumulation_steps" in fields(findings(train(), num_rows=100), "warning")
    assert "gradient_accumulation_steps" not in fields(findings(train(), num_rows=10_000), "warning")


def test_steps_are_counted_without_the_rows_held_out_and_over_all_devices() -> None:
    spec = train(val_size=0.1, per_device_train_batch_size=2, num_train_epochs=2)
    assert "about 90 steps" in said(findings(spec, num_rows=400, num_devices=4), "num_train_epochs", "estimate")


def test_the_spec_says_how_many_devices_before_the_caller_does() -> None:
    spec = train(num_processes=2)
    assert "8 x 1 x 2 = 16" in said(findings(spec, num_devices=8), "gradient_accumulation_steps", "paper")


def test_on_large_cards_and_small_models_stage_three_is_not_needed() -> None:
    spec = train(model_name_or_path="Qwen2.5-7B", deepspeed="ds_z3_config.json", num_processes=8)
    assert "stage 3 is not needed" in said(findings(spec), "deepspeed", "estimate")


def test_an_export_is_advised_too() -> None:
    spec = schema.load(ExportSpec, {"model": "m", "export_quantization_bit": 4})
    assert "not always faster" in said(findings(spec), "export_format", "reference")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", 32), ("SmolLM2-135M-Instruct", 0.135), ("Qwen3-0.6B", 0.6),
        ("Qwen3-30B-A3B-Instruct-2507", 30), ("Mixtral-8x7B-v0.1", None), ("base", None), ("Qwen3-4B-Instruct-2507", 4),
        ("phi-4", None), ("ft:Llama-3.1-8B:local:x:abcd1234", 8),
    ],
)  # fmt: skip
def test_the_size_is_read_from_the_name(name: str, size: float | None) -> None:
    assert billions_of(name) == size


def test_every_finding_can_be_sent() -> None:
    for finding in findings(train(), num_rows=100):
        assert finding.as_dict().keys() - {"zh"} == {"severity", "field", "message", "advice", "source"}
        assert finding.message.endswith((".", "?"))


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"pissa_init": True, "adapter_name_or_path": "mine"}, "pissa_init", "goes on from where it is"),
        ({"pissa_init": True, "lora_rank": 8}, "pissa_convert", "plain one of rank 16"),
        ({"pissa_init": True, "lora_rank": 32}, "pissa_init", "Rank 64 is above 32"),
        ({"additional_target": "embed_tokens"}, "additional_target", "Export it merged"),
        ({"init_special_tokens": "desc_init", "add_special_tokens": "<a>"}, "init_special_tokens", "descriptions"),
        ({"add_special_tokens": "<a>", "new_special_tokens_config": {"<b>": "ends"}}, "add_special_tokens", "are not"),
        ({"add_tokens": "<a>", "finetuning_type": "freeze"}, "freeze_extra_modules", "stay as they begin"),
        ({"add_tokens": "<a>"}, "additional_target", "trained in full"),
        ({"rope_scaling": "yarn"}, "finetuning_type", "published merged"),
    ],
)
def test_what_a_kind_of_lora_brings_with_it_is_said(body: dict[str, Any], field: str, words: str) -> None:
    assert words in said(findings(train(**body)), field, "reference")


PPO: dict[str, Any] = {"stage": "ppo", "reward_model": "scores", "bf16": True, "learning_rate": 1e-5}


def test_ppo_is_told_of_the_simpler_stages() -> None:
    found = said(findings(train(**PPO)), "stage", "reference")
    assert "use stage dpo" in found and "GRPO and RLOO" in found


def test_answers_drawn_from_a_part_of_the_distribution_are_a_warning() -> None:
    plain = {"top_p": 1.0, "top_k": 0, "ppo_buffer_size": 4}
    assert {"top_p", "top_k"} & fields(findings(train(**PPO, **plain)), "warning") == set()
    assert "top_p" in fields(findings(train(**PPO)), "warning")
    assert "top_k" in fields(findings(train(**PPO, **plain | {"top_k": 50})), "warning")
    assert "repetition_penalty" in fields(findings(train(**PPO, **plain, repetition_penalty=1.1)), "warning")


def test_few_answers_a_step_are_a_warning_and_no_validation_is_none() -> None:
    assert "ppo_buffer_size" in fields(findings(train(**PPO, per_device_train_batch_size=2)), "warning")
    found = fields(findings(train(**PPO, per_device_train_batch_size=4, ppo_buffer_size=4)), "warning")
    assert not {"ppo_buffer_size", "val_size"} & found


def test_a_step_of_ppo_answers_several_batches() -> None:
    spec = train(**PPO, per_device_train_batch_size=4, ppo_buffer_size=4, num_train_epochs=1)
    assert "about 10 steps" in said(findings(spec, num_rows=160), "num_train_epochs", "estimate")


def test_fields_of_drawing_are_without_effect_in_other_stages() -> None:
    found = findings(train(top_p=0.9, max_new_tokens=99))
    assert {"top_p", "max_new_tokens"} <= fields(found, "info")
    assert "no effect" in said(found, "top_p", "reference")
