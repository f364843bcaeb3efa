"""Counts of weights from a config.json against transformers' own models, built from that config on the meta device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from shared.advice import shapes
from trainer_worker.child.methods.lora import linear_names

SMALL: dict[str, Any] = {
    "vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 176,
    "num_key_value_heads": 2,
}  # fmt: skip
EXPERTS = SMALL | {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
DEEPSEEK = EXPERTS | {
    "n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 24,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "num_key_value_heads": 4, "n_group": 1,
    "topk_group": 1,
}  # fmt: skip
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", SMALL),
    ("llama", SMALL | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 32}),
    ("mistral", SMALL | {"head_dim": 24}),
    ("qwen2", SMALL),
    ("qwen3", SMALL | {"head_dim": 32}),
    ("gemma", SMALL | {"head_dim": 32, "num_key_value_heads": 1}),
    ("gemma2", SMALL | {"head_dim": 32}),
    ("gemma3_text", SMALL | {"head_dim": 32}),
    ("olmo2", SMALL),
    ("granite", SMALL),
    ("smollm3", SMALL | {"pad_token_id": 0}),
    ("phi", SMALL),
    ("phi3", SMALL | {"pad_token_id": 0}),
    ("glm4", SMALL | {"head_dim": 16, "attention_bias": True, "pad_token_id": 0}),
    ("starcoder2", SMALL),
    ("gpt2", {"vocab_size": 1000, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}),
    ("gpt_neox", SMALL),
    ("falcon", {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}),
    ("falcon", {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
                "new_decoder_architecture": True, "num_kv_heads": 2}),
    ("mixtral", SMALL | {"num_local_experts": 8}),
    ("qwen2_moe", EXPERTS | {"num_experts": 8, "shared_expert_intermediate_size": 96}),
    ("qwen3_moe", EXPERTS | {"num_experts": 8, "mlp_only_layers": [0], "head_dim": 16}),
    ("deepseek_v2", DEEPSEEK),
    ("deepseek_v3", DEEPSEEK | {"q_lora_rank": None}),
    ("glm4_moe", DEEPSEEK | {"use_qk_norm": True, "num_key_value_heads": 2, "head_dim": 16}),
    ("gpt_oss", SMALL | {"num_local_experts": 8, "head_dim": 16}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "fields"), CASES)
def test_the_count_of_weights_is_the_models_own(family: str, fields: dict[str, Any], tmp_path: Path) -> None:
    config = CONFIG_MAPPING[family](**fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.save_pretrained(tmp_path)
    shape = shapes.read(json.loads((tmp_path / "config.json").read_text()))
    assert shape.is_known
    assert shape.num_weights == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(("family", "fields"), CASES)
def test_adapters_have_as_many_weights_as_peft_gives_them(family: str, fields: dict[str, Any]) -> None:
    config = CONFIG_MAPPING[family](**fields)
    model = AutoModelForCausalLM.from_config(config)
    shape = shapes.read(config.to_dict())
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules=linear_names(model)))
    assert shape.adapted(["all"], 8) == sum(w.numel() for name, w in adapted.named_parameters() if "lora_" in name)


def test_experts_are_not_reached_by_quantization(tmp_path: Path) -> None:
    config = CONFIG_MAPPING["mixtral"](**SMALL, num_local_experts=4)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True), dtype=torch.bfloat16
    )
    held = sum(weight.numel() * weight.element_size() for weight in loaded.parameters())
    shape = shapes.read(config.to_dict())
    assert held == shape.num_linear / 2 + 2 * (shape.num_weights - shape.num_linear)
