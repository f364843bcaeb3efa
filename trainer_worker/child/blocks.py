"""LLaMA Pro: a model was expanded by copies of some of its blocks, one after every n, and only the copies are trained.

A copy begins as one that changes nothing: the matrices that write into the residual stream are zero (arXiv 2401.02415,
section 3.2). Making such a model is not done here.
"""

from __future__ import annotations

import re

import torch

from shared.errors import InvalidSpec
from trainer_worker.child.context import Context

#: Matrices of a block that write into the residual stream, by the names of Llama and its kin.
WRITING = ("o_proj", "down_proj")


def added_blocks(num_layers: int, num_added: int) -> range:
    """The last of each group of blocks. Raises InvalidSpec when the groups do not come out even."""
    if num_layers % num_added:
        even = ", ".join(str(count) for count in range(1, num_layers + 1) if num_layers % count == 0)
        text = f"is {num_added}: {num_layers} layers cannot be parted into so many groups, only into {even}"
        raise InvalidSpec(text, field="freeze_trainable_layers")
    stride = num_layers // num_added
    return range(stride - 1, num_layers, stride)


def check_added(model: torch.nn.Module, layers: range, context: Context) -> None:
    """Tell when the chosen blocks are not added ones; those of a training that goes on are neither."""
    for name, weight in model.named_parameters():
        found = re.search(r"\.(\d+)\..*?(\w+)\.weight$", name)
        if found and int(found[1]) in layers and found[2] in WRITING and weight.numel() and bool(weight.any()):
            text = f"Block {found[1]} does something already: it is none by which a model has just been expanded"
            context.emit("finding", text, "warning", field="use_llama_pro")
            return
