"""What autograd keeps of a model's layers, counted byte by byte, against what the estimate says it keeps."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from shared.advice import shapes
from shared.advice.memory import MIXED, PURE, Training, estimate
from trainer_worker.child import attention
from trainer_worker.child.methods.lora import keep_activations, linear_names

#: Tokens of the two lengths whose difference is taken: what does not grow with the length is the weights' copies.
TOKENS = 256
WIDTHS: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 64, "intermediate_size": 704, "max_position_embeddings": 4096,
}  # fmt: skip


def kept_per_token(
    family: str, kernel: str, *, adapters: bool, checkpointing: bool = False, first: int = TOKENS
) -> float:
    """`first`: tokens of the shorter one."""
    short, long = (_kept(family, kernel, adapters, checkpointing, first + n * TOKENS) for n in (0, 1))
    return (long - short) / TOKENS


def _kept(family: str, kernel: str, adapters: bool, checkpointing: bool, length: int) -> int:
    """Bytes that a forward pass keeps beside the model's own weights, each storage once."""
    config = CONFIG_MAPPING[family](**WIDTHS)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel).to(torch.bfloat16)
    model.config.use_cache = False
    if adapters:
        model.requires_grad_(False)
        adapted = get_peft_model(model, LoraConfig(r=8, target_modules=linear_names(model)))
        keep_activations(adapted.modules())
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    held: dict[int, torch.Tensor] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            held[place] = tensor
        return tensor

    options = {"segment_lengths": [length]} if kernel == attention.NAME else {}
    computed = torch.autocast("cpu", torch.bfloat16) if adapters else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), computed:
        model.train().base_model(input_ids=torch.zeros(1, length, dtype=torch.long), **options)
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def estimated(family: str, *, adapters: bool, **given: Any) -> float:
    shape = shapes.read(CONFIG_MAPPING[family](**WIDTHS).to_dict())
    trained = shape.adapted(["all"], 8) if adapters else shape.num_weights
    made = Training(
        shape=shape, num_trained=trained, trained=MIXED if adapters else PURE, num_frozen=shape.num_weights,
        rank=8 if adapters else 0, logit_bytes=1e9, **given,
    )  # fmt: skip
    short, long = (estimate(replace(made, length=n * TOKENS)).activations for n in (1, 2))
    return (long - short) / TOKENS


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma"])
@pytest.mark.parametrize("adapters", [True, False])
def test_what_layers_keep_is_what_is_estimated(family: str, adapters: bool) -> None:
    counted = kept_per_token(family, "sdpa", adapters=adapters)
    assert estimated(family, adapters=adapters, checkpointing=False) == pytest.approx(counted, rel=0.15)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_our_own_attention_keeps_keys_and_values_once_for_each_head(family: str) -> None:
    attention.register()
    # Of shorter samples a CPU keeps the probabilities, too, which grow with the square of the length.
    counted = kept_per_token(family, attention.NAME, adapters=True, first=2 * attention.KEPT)
    assert estimated(family, adapters=True, checkpointing=False, repeats_keys=True) == pytest.approx(counted, rel=0.1)


def test_checkpointing_keeps_the_input_of_each_layer() -> None:
    counted = kept_per_token("llama", "sdpa", adapters=True, checkpointing=True)
    assert estimated("llama", adapters=True, checkpointing=True) == pytest.approx(3 * 256 * 2)
    assert counted == pytest.approx(3 * 256 * 2 + 4 * 256, rel=0.02)  # beside them the last norm's, in float32
