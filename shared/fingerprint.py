"""Weights told from others without reading them all: names, types and shapes of the tensors, and a few of their bytes.

The same for the same tensors, however they are spread over files. Two trainings of one model differ in every tensor, so
a few bytes of each tell them apart; it is no digest that would find a damaged byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Bytes that are read at the beginning, in the middle and at the end of a tensor.
SAMPLE_BYTES = 64
MAX_HEADER_BYTES = 100_000_000


def of_model(folder: Path) -> str | None:
    """None where the weights are not safetensors, or not here."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    try:
        tensors = sorted(told for file in files for told in _tensors(file))
    except (struct.error, ValueError):  # whoever loads such a file says what is wrong with it
        return None
    return hashlib.sha256(b"".join(tensors)).hexdigest() if tensors else None


def _tensors(file: Path) -> Iterator[bytes]:
    with file.open("rb", buffering=0) as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        if length > MAX_HEADER_BYTES:
            return
        header: dict[str, Any] = json.loads(os.pread(opened.fileno(), length, 8))
        header.pop("__metadata__", None)
        for name, told in header.items():
            begin, end = told["data_offsets"]
            places = (begin, max(begin, (begin + end - SAMPLE_BYTES) // 2), max(begin, end - SAMPLE_BYTES))
            size = min(SAMPLE_BYTES, end - begin)
            samples = (os.pread(opened.fileno(), size, 8 + length + place) for place in places)
            yield f"{name} {told['dtype']} {told['shape']} ".encode() + b"".join(samples)
