"""ggml's own code for quantized types, called in the library that xllamacpp brings.

The gguf package writes the plain types only; the k-quants exist in C alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
import xllamacpp.xllamacpp
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

#: Weights that one call quantizes: between two of them a cancel is looked for.
CHUNK = 4 * 1024**2


@cache
def library() -> ctypes.CDLL:
    found = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    # size_t ggml_quantize_chunk(type, src, dst, start, nrows, n_per_row, imatrix)
    found.ggml_quantize_chunk.restype = ctypes.c_size_t
    found.ggml_quantize_chunk.argtypes = [
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
        *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p),
    ]
    return found


def num_bytes(num_weights: int, type_: GGMLQuantizationType) -> int:
    block, size = GGML_QUANT_SIZES[type_]
    return num_weights // block * size


def quantize(
    values: np.ndarray, type_: GGMLQuantizationType, importance: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """The codes of float32 values (..., width), part by part. `importance` (width,): how much an error of each column
    of the weights costs."""
    width = values.shape[-1]
    rows = values.reshape(-1, width)  # (rows, width)
    step = max(1, CHUNK // width)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        parts = [rows[start : start + step] for start in range(0, len(rows), step)]
        yield from pool.map(lambda part: quantize_rows(part, type_, importance), parts)


def quantize_rows(rows: np.ndarray, type_: GGMLQuantizationType, importance: np.ndarray | None) -> np.ndarray:
    """Raises ValueError when ggml writes another number of bytes than the type says."""
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    codes = np.empty(num_bytes(rows.size, type_), dtype=np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    written = library().ggml_quantize_chunk(
        int(type_),
        rows.ctypes.data,
        codes.ctypes.data,
        0,
        *rows.shape,
        None if weights is None else weights.ctypes.data,
    )
    if written != codes.nbytes:
        raise ValueError(f"ggml wrote {written} bytes of {type_.name} where {codes.nbytes} were expected")
    return codes
