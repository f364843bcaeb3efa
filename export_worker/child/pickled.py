"""Checkpoints of `.bin` files as entries: where in the file each tensor's bytes lie.

Such a file is a ZIP archive whose members are the tensors' storages, uncompressed, and a pickle that tells of them. The
pickle is read by torch with `weights_only`, which refuses code, and without the data. Files from before 2020 are no
archives: they are unpacked, one at a time, into safetensors beside the output.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from export_worker.child.shards import DTYPES, Entry, read_header

INDEX = "pytorch_model.bin.index.json"
SINGLE = "pytorch_model.bin"
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def is_pickled(folder: Path) -> bool:
    return (folder / INDEX).is_file() or (folder / SINGLE).is_file()


def list_entries(folder: Path, scratch: Path) -> dict[str, Entry]:
    """Every tensor of the checkpoint by name; `scratch` takes what has to be unpacked first."""
    files = [SINGLE]
    if (folder / INDEX).is_file():
        files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    return {entry.name: entry for name in files for entry in _entries(folder / Path(name).name, scratch)}


def _entries(file: Path, scratch: Path) -> Iterable[Entry]:
    found = list(_in_archive(file)) if zipfile.is_zipfile(file) else []
    return found if found and None not in found else _unpacked(file, scratch)  # type: ignore[return-value]


def _in_archive(file: Path) -> Iterator[Entry | None]:
    """None for a tensor whose bytes do not lie in one piece and in order."""
    state = torch.load(file, map_location="meta", weights_only=True)
    for name, tensor in state.items():
        begin = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        if begin is None or not tensor.is_contiguous() or tensor.dtype not in NAMES:
            yield None
            return
        size = tensor.element_size()
        yield Entry(
            name=name,
            dtype=NAMES[tensor.dtype],
            shape=tuple(tensor.shape),
            file=file,
            offset=begin + tensor.storage_offset() * size,
            num_bytes=tensor.numel() * size,
        )


def _unpacked(file: Path, scratch: Path) -> Iterable[Entry]:
    """The same tensors in a safetensors file: one file of the checkpoint is in memory meanwhile."""
    scratch.mkdir(parents=True, exist_ok=True)
    state = torch.load(file, map_location="cpu", weights_only=True)
    # Tied names share their memory, which safetensors refuses: each gets its own.
    save_file(
        {name: tensor.clone().contiguous() for name, tensor in state.items()}, scratch / f"{file.stem}.safetensors"
    )
    return read_header(scratch / f"{file.stem}.safetensors")
