"""4-bit integer weights, 16-bit activations, in the compressed-tensors layout that vLLM loads on GPUs and CPUs.

GPTQ (https://arxiv.org/abs/2210.17323) with the training data's own texts, layer by layer; plain rounding only when
there is no text at all, because its answers are visibly worse.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from export_worker.child import rounding, schemes
from export_worker.child.quantizers import Quantization
from export_worker.child.source import Source

NUM_BITS = 4


def check(source: Source) -> None:
    choose_group_size(source)


def choose_group_size(source: Source) -> int:
    return schemes.choose_group_size(schemes.linears(source.empty()).values(), "w4a16")


def quantize(work: Quantization) -> dict[str, Any]:
    group_size = choose_group_size(work.source)
    scheme = schemes.grouped(NUM_BITS, group_size)
    if not work.samples:
        work.say_uncalibrated()
        rounding.write(work, scheme)
        return {"method": "rtn", "num_bits": NUM_BITS, "group_size": group_size}
    # Imported only here: llmcompressor takes seconds.
    from llmcompressor.modifiers.gptq import GPTQModifier

    from export_worker.child import calibrating

    def recipe(model: PreTrainedModel) -> list[Any]:
        ignored = schemes.left_out(model, schemes.linears(model))
        return [GPTQModifier(config_groups={"group_0": scheme}, ignore=ignored)]

    calibrating.run(work, recipe)
    return {"method": "gptq", "num_bits": NUM_BITS, "group_size": group_size, **calibrating.told(work)}
