"""4-bit integer weights, 16-bit activations, in the compressed-tensors layout that vLLM loads on GPUs and CPUs.

GPTQ (https://arxiv.org/abs/2210.17323) with the training data's own texts, layer by layer; plain rounding only when
there is no text at all, because its answers are visibly worse. The output head and the routers of mixtures of experts
stay as they are: few weights, much damage.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from export_worker.child.rows import Sample
from export_worker.child.source import CannotExport
from export_worker.child.watch import Watch

NUM_BITS = 4
#: vLLM's fast kernels know these; larger groups are smaller files, so the largest that fits is taken.
GROUP_SIZES = (128, 64, 32)
#: Short samples are joined to rows of this length.
PACKED_TOKENS = 512
IGNORE = ["lm_head", "re:.*mlp[.]gate$", "re:.*[.]router$"]


def quantize(work: Quantization) -> dict[str, Any]:
    model = work.source.load(work.model)
    group_size = choose_group_size(model)
    method = "gptq" if work.samples else "rtn"
    if method == "rtn":
        work.watch.say(
            "No calibration texts are known: weights are rounded to nearest, which costs quality. ", level="warning"
        )
    rows = [batch(row, model.dtype) for row in pack(work.samples)]
    hooks = report_layers(model, len(rows), work.watch)
    oneshot(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(work.model),
        recipe=[recipe(method, group_size)],
        dataset=DataLoader(rows, batch_size=None) if rows else None,
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


def pack(samples: Sequence[Sample]) -> list[list[list[int]]]:
    """The samples' tokens in rows of at most PACKED_TOKENS; a longer sample gets a row of its own.

    GPTQ sums one matrix per row and layer, as large for 60 tokens as for 600: 105 short conversations each for itself
    took 79 s for a model of 135M parameters on two cores, packed 33 s.
    """
    rows: list[list[list[int]]] = []
    filled = PACKED_TOKENS
    for sample in samples:
        if filled + len(sample.input_ids) > PACKED_TOKENS:
            rows.append([])
            filled = 0
        rows[-1].append(sample.input_ids)
        filled += len(sample.input_ids)
    return rows


def batch(row: Sequence[Sequence[int]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Samples behind one another that do not see each other: the sums are those of the samples one by one.

    Without the mask the quantized logits were a quarter further from the merged model's (0.32 against 0.25).
    """
    owner = torch.cat([torch.full((len(ids),), n) for n, ids in enumerate(row)])  # (tokens,)
    seen = (owner[:, None] == owner[None, :]).tril()  # (tokens, tokens)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return {
        "input_ids": torch.tensor([[token for ids in row for token in ids]]),  # (1, tokens)
        "attention_mask": mask[None, None],  # (1, 1, tokens, tokens)
        "position_ids": torch.cat([torch.arange(len(ids)) for ids in row])[None],  # (1, tokens)
    }


def report_layers(model: PreTrainedModel, num_rows: int, watch: Watch) -> list[Any]:
    """Progress and cancellation from inside llmcompressor, which has no callback: each decoder layer reports its calls.

    Every row passes every layer twice, before and after the layer is quantized.
    """
    layers = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]
    total = 2 * len(layers) * num_rows
    done = 0

    def report(*_: Any) -> None:
        nonlocal done
        done += 1
        watch.progress(min(done, total), total, "layer passes")

    return [layer.register_forward_pre_hook(report) for layer in layers]
