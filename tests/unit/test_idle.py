"""Fields that were sent and are not read are told, each with what it needs; a default that nobody changed is not."""

from __future__ import annotations

from typing import Any

import pytest

from shared import schema
from shared.advice import idle
from shared.spec import SPECS

BASE: dict[str, dict[str, Any]] = {
    "train": {"model_name_or_path": "m", "dataset": "d"},
    "export": {"model_name_or_path": "m"},
    "generate": {"model": "m", "dataset": "d"},
}


def told(kind: str, body: dict[str, Any]) -> dict[str, str]:
    body = BASE[kind] | body
    return {found.field: found.message for found in idle.remarks(schema.load(SPECS[kind], body), body)}


@pytest.mark.parametrize(
    ("kind", "body", "field", "with_it"),
    [
        ("train", {"double_quantization": False}, "double_quantization", {"quantization_bit": 4}),
        ("train", {"disable_gradient_checkpointing": True, "use_reentrant_gc": False}, "use_reentrant_gc",
         {"disable_gradient_checkpointing": False}),
        ("train", {"pissa_iter": 4}, "pissa_iter", {"pissa_init": True}),
        ("train", {"loraplus_lr_embedding": 1e-5}, "loraplus_lr_embedding", {"loraplus_lr_ratio": 16.0}),
        ("train", {"finetuning_type": "full", "lora_alpha": 32}, "lora_alpha", {"finetuning_type": "lora"}),
        ("train", {"create_new_adapter": True}, "create_new_adapter", {"adapter_name_or_path": "a"}),
        ("train", {"asft_alpha": 0.2}, "asft_alpha", {"use_asft_loss": True}),
        ("train", {"eaft_alpha": 2.0}, "eaft_alpha", {"use_eaft_loss": True}),
        ("train", {"buffer_size": 4}, "buffer_size", {"streaming": True, "max_steps": 5}),
        ("train", {"eval_steps": 5}, "eval_steps", {"val_size": 0.1}),
        ("train", {"per_device_eval_batch_size": 1}, "per_device_eval_batch_size", {"eval_dataset": "e"}),
        ("train", {"metric_for_best_model": "loss"}, "metric_for_best_model",
         {"load_best_model_at_end": True, "val_size": 0.1}),
        ("train", {"save_strategy": "epoch", "save_steps": 7}, "save_steps", {"save_strategy": "steps"}),
        ("train", {"save_strategy": "no", "save_total_limit": 2}, "save_total_limit", {"save_strategy": "epoch"}),
        ("train", {"optim": "sgd", "adam_beta2": 0.95}, "adam_beta2", {"optim": "adamw_torch"}),
        ("train", {"temperature": 0.5}, "temperature", {"stage": "ppo", "reward_model": "r"}),
        ("train", {"ppo_epochs": 2}, "ppo_epochs", {"stage": "ppo", "reward_model": "r"}),
        ("export", {"export_quantization_nsamples": 9}, "export_quantization_nsamples", {"export_quantization_bit": 4}),
        ("generate", {"do_sample": False, "top_k": 5}, "top_k", {"do_sample": True}),
    ],
)  # fmt: skip
def test_a_field_that_is_not_read_is_told_until_what_it_needs_is_given(
    kind: str, body: dict[str, Any], field: str, with_it: dict[str, Any]
) -> None:
    assert f"{field} changes nothing without" in told(kind, body)[field]
    assert field not in told(kind, body | with_it)


@pytest.mark.parametrize("kind", BASE)
def test_defaults_that_are_written_out_are_no_news(kind: str) -> None:
    defaults = {param.wire: param.default for param in schema.params(SPECS[kind]) if not param.required}
    assert told(kind, defaults) == {}


@pytest.mark.parametrize("kind", idle.TABLES, ids=lambda kind: kind.__name__)
def test_every_field_of_the_table_is_one_of_its_spec(kind: type) -> None:
    known = {param.wire for param in schema.params(kind)}
    assert {field for needs in idle.TABLES[kind] for field in needs.fields} <= known
