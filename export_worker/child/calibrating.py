"""Weights chosen with texts run through the model, layer by layer, by llmcompressor: what its formats share.

The library brings one decoder layer after another to where it computes (the accelerator, else memory), quantizes it
there and goes on with what the quantized layer answers. A model too large for memory waits on the disk meanwhile.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmcompressor import oneshot
from llmcompressor.modifiers import Modifier
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedModel

from export_worker.child import calibration
from export_worker.child.merge import GB
from export_worker.child.quantizers import Quantization
from export_worker.child.watch import Watch
from shared import hostmemory

#: What a quantizer makes of the loaded model: the steps to run, in their order.
Recipe = Callable[[PreTrainedModel], Sequence[Modifier]]


def run(work: Quantization, recipe: Recipe) -> None:
    """Weights and config.json into the empty folder `work.out`."""
    with tempfile.TemporaryDirectory(prefix="layers-", dir=work.out.parent) as folder:
        room = hostmemory.free_bytes() // 2 if work.room_bytes is None else work.room_bytes
        model = work.source.load_beside_disk(work.model, Path(folder), room)
        steps = recipe(model)
        rows = [calibration.batch(row, model.dtype) for row in calibration.pack(work.samples)]
        hooks = report_layers(model, len(rows) * len(steps), work.watch)
        tokenizer = AutoTokenizer.from_pretrained(work.model)
        # One step after another: the second has to see the activations that the first has made.
        texts = DataLoader(rows, batch_size=None)
        oneshot(model=model, tokenizer=tokenizer, recipe=list(steps), dataset=texts, pipeline="independent")
        for hook in hooks:
            hook.remove()
        work.watch.check()
        model.save_pretrained(work.out, save_compressed=True, max_shard_size=int(work.max_shard_gb * GB))


def report_layers(model: PreTrainedModel, num_rows: int, watch: Watch) -> list[Any]:
    """Progress and cancellation from inside llmcompressor, which has no callback: each decoder layer reports its calls.

    Every row passes every layer twice, before and after the layer is changed.
    """
    layers = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]
    total = 2 * len(layers) * num_rows
    done = 0

    def report(*_: Any) -> None:
        nonlocal done
        done += 1
        watch.progress(min(done, total), total, "layer passes")

    return [layer.register_forward_pre_hook(report) for layer in layers]


def told(work: Quantization) -> dict[str, int]:
    """For the result: how much text was run through the model."""
    return {
        "num_samples": len(work.samples),
        "num_tokens": sum(len(sample.input_ids) for sample in work.samples),
    }
