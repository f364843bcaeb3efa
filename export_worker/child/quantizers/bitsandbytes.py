"""4-bit NormalFloat weights (https://arxiv.org/abs/2305.14314) or 8-bit ones (https://arxiv.org/abs/2208.07339).

transformers quantizes each weight as it reads it, so what is held is the quantized model and one tensor more.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from export_worker.child.merge import GB
from export_worker.child.quantizers import Quantization
from export_worker.child.source import CannotExport


def quantize(work: Quantization) -> dict[str, Any]:
    config = of_bits(work.num_bits)
    model = work.source.load_quantized(work.model, config)
    if not any(type(module).__module__.startswith("bitsandbytes.") for module in model.modules()):
        raise CannotExport(
            f"bitsandbytes quantizes nothing of {type(model).__name__}: export it merged", field="export_format"
        )
    work.watch.check()
    model.save_pretrained(work.out, max_shard_size=int(work.max_shard_gb * GB))
    return {"method": "nf4" if config.load_in_4bit else "llm.int8", "num_bits": work.num_bits}


def of_bits(num_bits: int) -> BitsAndBytesConfig:
    if num_bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    # Scales are not quantized once more: vLLM's readers differ in what they make of that, and it saves 0.4 bits.
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
