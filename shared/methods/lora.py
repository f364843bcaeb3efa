"""LoRA: a small adapter beside frozen weights; with quantization_bit, QLoRA."""

from __future__ import annotations

from shared.declarations import Method

METHOD = Method(name="lora", doc="Train a small adapter beside the frozen model.", makes="adapter")
