"""Small real models and adapters for the tests of the export: random weights, real classes, real libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tokenizer(folder: Path) -> None:
    """Bytes as tokens: no merges, nothing to train."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|im_start|>", "<|im_end|>", *alphabet]
    backend = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)


def llama(folder: Path, *, dtype: torch.dtype = torch.bfloat16, tied: bool = False, **config: Any) -> Path:
    """A random Llama of two layers, hidden size 64, saved like any model; generation config and licence included."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    given = {"vocab_size": 258, "num_key_value_heads": 2, "tie_word_embeddings": tied} | sizes | config
    model = LlamaForCausalLM(LlamaConfig(**given))
    # Larger than the usual 0.02, so that the logits are far from flat and a wrong merge shows.
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    model.generation_config.eos_token_id = 1
    model.to(dtype).save_pretrained(folder)
    (folder / "LICENSE").write_text("Apache License\n")
    save_tokenizer(folder)
    return folder


def gpt2(folder: Path) -> Path:
    """A random GPT-2: its layers store their weights as (in, out)."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=2, n_positions=128)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def mixtral(folder: Path) -> Path:
    """A random mixture of four experts: its class has one stack of them, its files each apart and by other names."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MixtralConfig(vocab_size=258, num_key_value_heads=2, num_local_experts=4, **sizes)
    MixtralForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def lora(base: Path, folder: Path, *, seed: int = 1, targets: list[str] | None = None, **config: Any) -> Path:
    """An adapter of the base whose factors, and modules trained in full, have random values: as after a training."""
    torch.manual_seed(seed)
    settings = LoraConfig(
        task_type="CAUSAL_LM", **({"r": 4, "lora_alpha": 8, "target_modules": targets or ATTENTION} | config)
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), settings)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def merge_with_peft(base: Path, *adapters: Path) -> dict[str, torch.Tensor]:
    """What peft's own merge gives, tensor by tensor: the reference."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()


def write_rows(path: Path, count: int) -> Path:
    rows = [{"instruction": f"Question {n}?", "input": "", "output": f"Answer number {n}."} for n in range(count)]
    path.write_text(json.dumps(rows))
    return path


class Recorder:
    """An attempt that keeps its events in memory, and wants a cancel from the start or from the phase or unit given."""

    def __init__(self, cancel_at: str | None = None):
        self.events: list[dict[str, Any]] = []
        self._cancel_at = cancel_at
        self._wanted = "cancel" if cancel_at == "start" else "run"

    def emit(self, type: str, message: str = "", level: str = "info", **data: Any) -> None:
        self.events.append({"type": type, "message": message, "level": level, "data": data})
        if self._cancel_at is not None and self._cancel_at in (data.get("unit"), type == "phase" and data["phase"]):
            self._wanted = "cancel"

    def wanted(self) -> str:
        return self._wanted

    def of_type(self, type: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == type]
