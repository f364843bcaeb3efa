"""The model as one: adapters merged into the weights, nothing quantized."""

from __future__ import annotations

from shared.declarations import Format

FORMAT = Format(name="merged", doc="One model in safetensors, adapters merged in.", default_for=(None,), makes="merged")
