"""How models are loaded to be compared: in float32 where that is cheap, as they are stored, or page by page.

A model that does not fit into memory is mapped from its files: the weights that are being computed with are read as
they are needed and dropped again. Its rows are then few, and it answers nothing, for each token would read all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from export_worker.child.reading import Questions
from shared import hostmemory
from shared.tongues import Text

#: Checkpoints up to this size are compared in float32, bytes.
FLOAT32_MAX_BYTES = 4 * 10**9
#: Memory beside the weights: activations, logits that are kept, libraries, bytes.
BESIDE_BYTES = 1024**3
#: Rows of a model that is read page by page.
FEW_ROWS = 4
GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Loading:
    dtype: torch.dtype | str
    device: str
    #: What is not compared, and why; empty: all is.
    left_out: str = ""

    def limited(self, questions: Questions) -> Questions:
        if not self.left_out:
            return questions
        return replace(questions, samples=questions.samples[:FEW_ROWS], num_answers=0)


def choose(folder: Path, device: str) -> Loading:
    size = weight_bytes(folder)
    available = available_bytes(device)
    if size <= FLOAT32_MAX_BYTES and 2 * size + BESIDE_BYTES <= available:
        return Loading(dtype=torch.float32, device=device)
    if size + BESIDE_BYTES <= available:
        return Loading(dtype="auto", device=device)
    if device != "cpu":
        return choose(folder, "cpu")
    text = (
        "The model has {size:.1f} GB of weights, and {available:.1f} GB of memory are available: it is read page by "
        "page, on {rows} rows and without answers."
    )
    told = Text(text, size=size / GB, available=available / GB, rows=FEW_ROWS)
    return Loading(dtype="auto", device=device, left_out=told)


def weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))


def available_bytes(device: str) -> int:
    """Of the machine, within what its container and this process may take, or of the accelerator."""
    return hostmemory.free_bytes() if device == "cpu" else int(torch.accelerator.get_memory_info(device)[0])
