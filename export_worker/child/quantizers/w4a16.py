"""4-bit integer weights, 16-bit activations, in the compressed-tensors layout that vLLM loads on GPUs and CPUs.

GPTQ (https://arxiv.org/abs/2210.17323) with the training data's own texts, layer by layer; plain rounding only when there
is no text at all, because its answers are visibly worse. The output head and the routers of mixtures of experts stay as
they are: few weights, much damage.
"""

from __future__ import annotations

from typing import Any

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedModel

from export_worker.child.merge import GB
from export_worker.child.quantizers import Quantization
from export_worker.child.source import CannotExport, load_model

NUM_BITS = 4
#: vLLM's fast kernels know these; larger groups are smaller files, so the largest that fits is taken.
GROUP_SIZES = (128, 64, 32)
IGNORE = ["lm_head", "re:.*mlp[.]gate$", "re:.*[.]router$"]


def quantize(work: Quantization) -> dict[str, Any]:
    model = load_model(work.model, trust_remote_code=work.trust_remote_code)
    group_size = choose_group_size(model)
    method = "gptq" if work.samples else "rtn"
    if method == "rtn":
        work.watch.say("No calibration texts are known: weights are rounded to nearest, which costs quality. ", level="warning")
    hooks = report_layers(model, work)
    oneshot(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(work.model),
        recipe=[recipe(method, group_size)],
        dataset=batches(work) if work.samples else None,
    )
    for hook in hooks:
        hook.remove()
    work.watch.check()
    model.save_pretrained(work.out, save_compressed=True, max_shard_size=int(work.max_shard_gb * GB))
    return {
        "method": method,
        "num_bits": NUM_BITS,
        "group_size": group_size,
        "num_samples": len(work.samples),
        "num_tokens": sum(len(sample.input_ids) for sample in work.samples),
    }


def recipe(method: str, group_size: int) -> Modifier:
    weights = {"num_bits": NUM_BITS, "type": "int", "symmetric": True, "strategy": "group", "group_size": group_size}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    kind = GPTQModifier if method == "gptq" else QuantizationModifier
    return kind(config_groups=groups, ignore=IGNORE)


def choose_group_size(model: PreTrainedModel) -> int:
    """The largest group that divides the inputs of every layer to be quantized (576 is 64 * 9: 128 does not fit)."""
    widths = {
        module.in_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    for size in GROUP_SIZES:
        if all(width % size == 0 for width in widths):
            return size
    raise CannotExport(
        f"w4a16 groups weights by {GROUP_SIZES[-1]} at least, which does not divide the model's layer widths "
        f"{sorted(widths)}",
        field="export_format",
    )


def batches(work: Quantization) -> DataLoader:
    rows = [torch.tensor([sample.input_ids]) for sample in work.samples]  # each (1, tokens)
    return DataLoader([{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows], batch_size=None)


def report_layers(model: PreTrainedModel, work: Quantization) -> list[Any]:
    """Progress and cancellation from inside llmcompressor, which has no callback: each decoder layer reports its calls.

    Every sample passes every layer twice, before and after the layer is quantized.
    """
    layers = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]
    total = 2 * len(layers) * len(work.samples)
    done = 0

    def report(*_: Any) -> None:
        nonlocal done
        done += 1
        work.watch.progress(min(done, total), total, "layer passes")

    return [layer.register_forward_pre_hook(report) for layer in layers]
