"""8-bit floating-point weights with one scale per output, activations quantized as they come, as compressed-tensors.

Nothing is calibrated: weights are rounded to nearest, tensor by tensor, so a model of any size takes the memory of its
largest tensor (https://arxiv.org/abs/2209.05433).
"""

from __future__ import annotations

from typing import Any

from export_worker.child import rounding, schemes
from export_worker.child.quantizers import Quantization
from export_worker.child.source import Source


def check(source: Source) -> None:
    schemes.linears(source.empty())


def quantize(work: Quantization) -> dict[str, Any]:
    rounding.write(work, schemes.per_channel("float"))
    return {"method": "rtn", "num_bits": 8}
