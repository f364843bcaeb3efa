"""2, 3, 4 or 8-bit weights in GPTQ's files, whose rounding AutoRound learns."""

from __future__ import annotations

from typing import Any

from export_worker.child import autoround, packed
from export_worker.child.quantizers import Quantization
from export_worker.child.reading import ReadBack, Reading

NUM_BITS = 4


def quantize(work: Quantization) -> dict[str, Any]:
    # vLLM knows no zeros of its own per group here.
    target = autoround.Target(files="auto_gptq", num_bits=work.num_bits or NUM_BITS, symmetric=True)
    return autoround.run(work, target)


def read(back: ReadBack) -> Reading:
    return packed.read(back)
