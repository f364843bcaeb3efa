"""8-bit integer weights and activations, in the compressed-tensors layout that vLLM loads on GPUs and CPUs.

Weights have one scale per output, activations one per token, taken as they come. With texts, outliers of the
activations are first moved into the weights (SmoothQuant, https://arxiv.org/abs/2211.10438, equation 4) and the weights
chosen by GPTQ (https://arxiv.org/abs/2210.17323); without, weights are rounded to nearest.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from export_worker.child import rounding, schemes
from export_worker.child.quantizers import Quantization
from export_worker.child.source import CannotExport, Source

NUM_BITS = 8
#: Share of the outliers that goes into the weights; the paper's alpha, with the value that its library uses for
#: language models of now.
SMOOTHING_STRENGTH = 0.8
#: Norms and the projections that read them: true only in decoder layers that have these two norms and no more.
SMOOTHED = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def check(source: Source) -> None:
    model = source.empty()
    schemes.linears(model)
    if any(".experts." in name and weight.dim() == 3 for name, weight in model.named_parameters()):
        # transformers fuses experts while it loads them, and takes those of this format for unquantized.
        raise CannotExport(
            "a mixture of experts cannot be read back from w8a8 files, so nothing would be proven: export fp8 or w4a16",
            field="export_format",
        )


def quantize(work: Quantization) -> dict[str, Any]:
    scheme = schemes.per_channel("int")
    if not work.samples:
        work.say_uncalibrated()
        rounding.write(work, scheme)
        return {"method": "rtn", "num_bits": NUM_BITS}
    # Imported only here: llmcompressor takes seconds.
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    from export_worker.child import calibrating

    smooth = can_smooth(work.source.empty())

    def recipe(model: PreTrainedModel) -> list[Any]:
        ignored = schemes.left_out(model, schemes.linears(model))
        mappings = [[[f"re:.*{name}$" for name in readers], f"re:.*{norm}$"] for norm, readers in SMOOTHED.items()]
        smoothing = [SmoothQuantModifier(smoothing_strength=SMOOTHING_STRENGTH, mappings=mappings)] if smooth else []
        return [*smoothing, GPTQModifier(config_groups={"group_0": scheme}, ignore=ignored)]

    calibrating.run(work, recipe)
    method = "smoothquant+gptq" if smooth else "gptq"
    return {"method": method, "num_bits": NUM_BITS, **calibrating.told(work)}


def can_smooth(model: PreTrainedModel) -> bool:
    """Whether every decoder layer is built as SMOOTHED says.

    The library smooths whatever matches by name. Gemma 2 has a `post_attention_layernorm` that no projection reads:
    dividing its weights would change every answer.
    """
    layers = [layer for layer in model.modules() if type(layer).__name__ in (model._no_split_modules or ())]
    return bool(layers) and all(_is_plain(layer) for layer in layers)


def _is_plain(layer: Any) -> bool:
    norms = {name for name, _ in layer.named_children() if name.endswith("norm")}
    parts = {name for name, _ in layer.named_modules()}
    readers = {reader for names in SMOOTHED.values() for reader in names}
    return norms == set(SMOOTHED) and readers <= parts
