"""Kinds of LoRA: what each learns, and that what it publishes gives the trained model's answers on the plain base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import published
import pytest
import torch
from safetensors.torch import load_file
from training import Attempt, make_attempt, make_dataset, make_tokenizer, train_here
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, Phi3Config, PretrainedConfig

from shared.errors import InvalidSpec

#: Losses of the twelve steps of make_attempt's spec, on one thread, torch 2.13, transformers 5.17, peft 0.21.
PINNED: dict[str, list[float]] = {
    "rslora": [5.900042, 5.672322, 5.599636, 5.586084, 5.527765, 5.708462, 5.428936, 5.362686, 5.24368, 5.231781,
        5.19684, 5.197102],
    "dora": [5.900042, 5.697499, 5.617905, 5.616532, 5.610908, 5.626812, 5.618112, 5.562202, 5.569359, 5.51881,
        5.432619, 5.367574],
    "pissa": [5.900042, 5.801872, 5.788199, 5.768252, 5.734649, 5.730556, 5.714175, 5.687408, 5.631256, 5.648681,
        5.652945, 5.654417],
    "fast pissa": [5.900042, 5.802361, 5.789345, 5.767805, 5.733152, 5.728488, 5.711638, 5.685327, 5.631097, 5.647246,
        5.65135, 5.653743],
    "rslora pissa": [5.900042, 5.769569, 5.733792, 5.707497, 5.678982, 5.683259, 5.673996, 5.632629, 5.5875, 5.600692,
        5.598155, 5.600204],
    "lora+": [5.900042, 5.720327, 5.648226, 5.632548, 5.617477, 5.631857, 5.626329, 5.581906, 5.578815, 5.579837,
        5.569149, 5.571828],
    "embeddings": [5.900042, 5.801294, 5.779658, 5.75579, 5.714718, 5.698204, 5.662244, 5.650991, 5.584043, 5.601234,
        5.601427, 5.590635],
}  # fmt: skip
SLOW = {"learning_rate": 2e-3}
KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True, "lora_rank": 16, **SLOW},
    "dora": {"use_dora": True},
    "pissa": {"pissa_init": True, "pissa_iter": -1, **SLOW},
    "fast pissa": {"pissa_init": True, "pissa_convert": True, **SLOW},
    "rslora pissa": {"pissa_init": True, "use_rslora": True, **SLOW},
    "lora+": {"loraplus_lr_ratio": 4.0, **SLOW},
    "embeddings": {"additional_target": "embed_tokens", "learning_rate": 1e-3},
}


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("held out") / "rows.json", 7)


def trained(folder: Path, tiny: Path, rows: Path, held_out: Path, **spec: Any) -> Attempt:
    """Validated at the end: the trained model's own loss."""
    return train_here(make_attempt(folder, tiny, rows, eval_dataset=held_out, do_eval=True, eval_steps=100, **spec))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_lora_learns_as_pinned_and_works_on_the_plain_base(
    tmp_path: Path, tiny: Path, rows: Path, held_out: Path, kind: str
) -> None:
    attempt = trained(tmp_path / "a", tiny, rows, held_out, **KINDS[kind])

    assert attempt.losses == pytest.approx(PINNED[kind], rel=1e-5)
    own = attempt.outcome["data"]["metrics"]["eval_loss"]
    assert published.loss(attempt, tiny, held_out) == pytest.approx(own, rel=1e-5)


def test_pissa_publishes_twice_the_rank_at_the_same_scale(
    tmp_path: Path, tiny: Path, rows: Path, held_out: Path
) -> None:
    attempt = trained(tmp_path / "a", tiny, rows, held_out, pissa_init=True, lora_rank=4, max_steps=1)

    config = json.loads((attempt.output / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 16, True)


def test_pissa_goes_on_from_its_checkpoint(tmp_path: Path, tiny: Path, rows: Path, held_out: Path) -> None:
    spec = {"pissa_init": True, "save_strategy": "steps", "save_steps": 4, **SLOW}
    whole = trained(tmp_path / "whole", tiny, rows, held_out, **spec)
    checkpoint = whole.folder / whole.of("checkpoint")[0]["path"]

    rest = trained(tmp_path / "rest", tiny, rows, held_out, resume_from=checkpoint, **spec)

    assert rest.losses == pytest.approx(whole.losses[4:], rel=1e-6)
    assert published.loss(rest, tiny, held_out) == pytest.approx(published.loss(whole, tiny, held_out), rel=1e-6)


def test_lora_plus_gives_each_matrix_its_rate(tmp_path: Path, tiny: Path, rows: Path, held_out: Path) -> None:
    """Adam's first step is the learning rate itself: B, which begins at zero, tells it."""
    steps = {"max_steps": 1, "learning_rate": 1e-4, "max_grad_norm": 0.0}
    plain = weights(trained(tmp_path / "plain", tiny, rows, held_out, **steps))
    plus = weights(trained(tmp_path / "plus", tiny, rows, held_out, loraplus_lr_ratio=16.0, **steps))

    for name in plain:
        change = 16.0 if "lora_B" in name else 1.0
        assert torch.allclose(plus[name], plain[name] * change, rtol=1e-3), name


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=128), {"c_attn", "c_proj", "c_fc"}),
        (
            Phi3Config(
                hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, pad_token_id=2
            ),
            {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
        ),
        (
            GPTNeoXConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2),
            {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
        ),
    ],
    ids=["gpt2", "phi3", "gpt-neox"],
)
def test_all_means_every_linear_layer_of_the_architecture(
    tmp_path: Path, rows: Path, held_out: Path, config: PretrainedConfig, names: set[str]
) -> None:
    """Fused matrices and GPT-2's transposed ones among them, the output layer not."""
    base = of_architecture(tmp_path / "base", config)

    attempt = trained(tmp_path / "a", base, rows, held_out, max_steps=3)

    saved = json.loads((attempt.output / "adapter_config.json").read_text())
    assert set(saved["target_modules"]) == names
    own = attempt.outcome["data"]["metrics"]["eval_loss"]
    assert attempt.losses[-1] < attempt.losses[0]
    assert published.loss(attempt, base, held_out) == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize("field", ["lora_target", "additional_target"])
def test_a_module_that_the_model_lacks_is_refused_with_those_it_has(tmp_path: Path, rows: Path, field: str) -> None:
    base = of_architecture(tmp_path / "base", GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=128))

    with pytest.raises(InvalidSpec, match="c_attn, c_fc, c_proj") as raised:
        train_here(make_attempt(tmp_path / "a", base, rows, **{field: "q_proj"}))
    assert raised.value.field == field


def of_architecture(folder: Path, config: PretrainedConfig) -> Path:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config.vocab_size, config.bos_token_id, config.eos_token_id = len(tokenizer), 1, 2
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def weights(attempt: Attempt) -> dict[str, torch.Tensor]:
    return load_file(attempt.output / "adapter_model.safetensors")
