"""Integer weights as the files of GPTQ and AWQ pack them into 32-bit words, read back as the numbers they stand for.

Written by another hand than the quantizer's library, so that what is compared with the merged model is what lies in the
files. Not here: computing with packed weights; vLLM does that.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from export_worker.child import shards
from export_worker.child.merge import GB
from export_worker.child.reading import ReadBack, Reading, read_folder
from export_worker.child.shards import Entry

#: Place of each of eight columns within a word of AWQ's, whose kernels want even columns first.
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
CODES = "qweight"
#: Tensors that stand for a layer's weight together.
PARTS = frozenset({CODES, "qzeros", "scales", "g_idx"})


@dataclass(frozen=True, kw_only=True)
class Packing:
    #: "gptq" or "awq".
    method: str
    num_bits: int

    @classmethod
    def of(cls, folder: Path) -> Packing:
        told = json.loads((folder / "config.json").read_text())["quantization_config"]
        return cls(method=told["quant_method"], num_bits=told["bits"])

    def width_of(self, codes: Entry) -> tuple[int, int]:
        """Shape of the weight that the codes stand for, (out, in)."""
        rows, columns = codes.shape
        if self.method == "awq":  # (in, out / 8)
            return columns * 32 // self.num_bits, rows
        return columns, rows * 32 // self.num_bits  # (in * bits / 32, out)

    def weight(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(out, in), float32."""
        codes, zeros = self._integers(parts[CODES], parts["qzeros"])  # (in, out), (groups, out)
        scales = parts["scales"].float()  # (groups, out)
        group_size = codes.shape[0] // scales.shape[0]
        spread = (one.repeat_interleave(group_size, dim=0) for one in (zeros, scales))
        zero, scale = spread  # (in, out)
        return ((codes - zero) * scale).T

    def _integers(self, codes: torch.Tensor, zeros: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.method == "awq":
            return _columns(codes), _columns(zeros)
        # GPTQ's files hold every zero less one.
        return unpack(codes, self.num_bits), unpack(zeros.T, self.num_bits).T + 1


def unpack(words: torch.Tensor, num_bits: int) -> torch.Tensor:
    """(n, m) words to (n * 32 / num_bits, m) integers: their bits one after another, lowest first; three-bit integers
    cross from word to word."""
    places = torch.arange(32)[None, :, None]
    bits = ((words[:, None, :] >> places) & 1).to(torch.uint8)  # (n, 32, m)
    values = 1 << torch.arange(num_bits, dtype=torch.uint8)[None, :, None]
    return (bits.reshape(-1, num_bits, words.shape[1]) * values).sum(dim=1, dtype=torch.int16)


def _columns(words: torch.Tensor) -> torch.Tensor:
    """(n, m / 8) words of AWQ's to (n, m) integers."""
    each = unpack(words.T, 4).reshape(-1, len(AWQ_ORDER), words.shape[0])  # (m / 8, 8, n)
    return each[:, AWQ_ORDER].reshape(-1, words.shape[0]).T


def read(back: ReadBack) -> Reading:
    """What the model of the packed files says, its weights spelled out on the disk meanwhile."""
    dtype = back.dtype if isinstance(back.dtype, torch.dtype) else torch.bfloat16
    with tempfile.TemporaryDirectory(prefix="plain-", dir=back.folder.parent) as folder:
        write_plain(back.folder, Path(folder), dtype)
        return read_folder(replace(back, folder=Path(folder)))


def write_plain(packed: Path, folder: Path, dtype: torch.dtype) -> None:
    """The model as transformers loads it without any quantizer's library: tensor by tensor, in little memory."""
    packing, entries = Packing.of(packed), shards.list_entries(packed)
    word = next(name for name, known in shards.DTYPES.items() if known == dtype)
    made = list(plain_entries(entries, packing, word, dtype.itemsize))
    places = shards.lay_out(made, folder, int(5 * GB))
    for entry in made:
        module = entry.name.removesuffix(".weight")
        if f"{module}.{CODES}" in entries:
            named = {part: entries.get(f"{module}.{part}") for part in PARTS}
            parts = {part: shards.read(one) for part, one in named.items() if one is not None}
            shards.write(packing.weight(parts).to(dtype), places[entry.name])
        else:
            shards.write(shards.read(entries[entry.name]), places[entry.name])
    write_config(packed, folder)


def plain_entries(entries: Mapping[str, Entry], packing: Packing, word: str, itemsize: int) -> Iterator[Entry]:
    for entry in entries.values():
        module, _, part = entry.name.rpartition(".")
        if f"{module}.{CODES}" not in entries or part not in PARTS:
            yield entry
        elif part == CODES:
            out, width = packing.width_of(entry)
            yield replace(
                entry, name=f"{module}.weight", dtype=word, shape=(out, width), num_bytes=out * width * itemsize
            )


def write_config(packed: Path, folder: Path) -> None:
    config: dict[str, Any] = json.loads((packed / "config.json").read_text())
    config.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps(config))
    generation = packed / "generation_config.json"
    if generation.is_file():
        (folder / generation.name).write_bytes(generation.read_bytes())
