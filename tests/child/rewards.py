"""Tiny reward models: a whole one, an adapter, and one made by hand that counts a token."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from training import make_tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification

WIDTH = 64


def make_reward_model(folder: Path, base: Path) -> Path:
    """The base with a random score head, its weights a little moved, so that answers differ."""
    torch.manual_seed(1)
    model = LlamaForSequenceClassification.from_pretrained(base, num_labels=1)
    for weight in model.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_reward_adapter(folder: Path, base: Path) -> Path:
    """A LoRA adapter with a score head, as stage rm leaves it; both random."""
    torch.manual_seed(2)
    model = LlamaForSequenceClassification.from_pretrained(base, num_labels=1)
    adapted = get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules=["q_proj", "up_proj"]))
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += 0.2 * torch.randn_like(weight)
    adapted.save_pretrained(folder)
    return folder


def make_counting_reward(folder: Path, token: int) -> Path:
    """Its only layer attends to all tokens alike: the score grows with the share of `token` among them."""
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=512, num_labels=1, pad_token_id=2,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config)
    layer = model.model.layers[0]
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.zero_()
    model.model.embed_tokens.weight.data[:, 1] = 1.0
    model.model.embed_tokens.weight.data[token, 0] = 1.0
    layer.self_attn.v_proj.weight.data[0, 0] = 1.0
    layer.self_attn.o_proj.weight.data[2, 0] = 1.0
    model.score.weight.data[0, 2] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
