"""Rules that several methods share."""

from __future__ import annotations

from typing import Any

from shared.rules import rule


@rule("quantization_bit")
def needs_lora(spec: Any) -> str | None:
    given, method = spec.model.quantization_bit is not None, spec.tuning.finetuning_type
    return f"cannot be given with finetuning_type {method}: only lora trains a quantized base" if given else None


@rule("adapter_name_or_path")
def no_adapter(spec: Any) -> str | None:
    given, method = spec.model.adapter_name_or_path is not None, spec.tuning.finetuning_type
    return f"cannot be given with finetuning_type {method}: export the adapter merged first" if given else None


@rule("use_dora")
def no_dora(spec: Any) -> str | None:
    return "is a kind of LoRA: set finetuning_type to lora" if spec.lora.use_dora else None


@rule("use_rslora")
def no_rslora(spec: Any) -> str | None:
    return "is a kind of LoRA: set finetuning_type to lora" if spec.lora.use_rslora else None


WITHOUT_ADAPTER = (needs_lora, no_adapter, no_dora, no_rslora)
