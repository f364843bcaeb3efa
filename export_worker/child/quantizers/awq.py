"""4-bit weights with zero points in AWQ's files, whose rounding AutoRound learns."""

from __future__ import annotations

from typing import Any

from export_worker.child import autoround, packed
from export_worker.child.quantizers import Quantization
from export_worker.child.reading import ReadBack, Reading


def quantize(work: Quantization) -> dict[str, Any]:
    # With zeros of its own per group: vLLM's fast kernel takes no other.
    return autoround.run(work, autoround.Target(files="auto_awq", num_bits=4, symmetric=False))


def read(back: ReadBack) -> Reading:
    return packed.read(back)
