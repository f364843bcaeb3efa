"""Safetensors checkpoints read and written one tensor at a time, so that memory is the largest tensor, not the model.

The format is eight bytes of header length, a JSON header and the raw data. Reading a slice instead of mapping the file
keeps the resident memory down too: mapped pages count until the kernel takes them back. The header is written before
the data, and each tensor to its own place, in any order. What is written is what `safetensors.torch.save_file` would
hold; the tests read it back with that library.
Not here: any change of a tensor's values (changes.py), and `.bin` checkpoints (pickled.py).
"""

from __future__ import annotations

import errno
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
#: A header longer than this is no safetensors file (the library's own limit).
MAX_HEADER_BYTES = 100_000_000
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
#: What the kernel answers where it cannot copy between two files itself: old ones, some network file systems.
NO_COPY_IN_KERNEL = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)
#: Copied at once where the bytes have to pass through this process.
COPY_BYTES = 8 * 2**20


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where bytes lie, or belong."""

    file: Path
    offset: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a checkpoint: what it is and where its bytes lie."""

    name: str
    #: Safetensors' word for the type, e.g. "BF16".
    dtype: str
    shape: tuple[int, ...]
    file: Path
    #: Offset of the first byte in the file.
    offset: int
    num_bytes: int

    @property
    def place(self) -> Place:
        return Place(file=self.file, offset=self.offset)

    def named(self, name: str) -> Entry:
        return replace(self, name=name)

    def with_rows(self, count: int) -> Entry:
        """The same tensor with another number of rows; its bytes lie nowhere yet."""
        row_bytes = self.num_bytes // self.shape[0]
        return replace(self, shape=(count, *self.shape[1:]), num_bytes=count * row_bytes)

    def as_type(self, dtype: torch.dtype) -> Entry:
        """The same tensor in another floating-point type; others stay. Its bytes lie nowhere yet."""
        if not DTYPES[self.dtype].is_floating_point or DTYPES[self.dtype].itemsize < 2:
            return self
        word = next(name for name, known in DTYPES.items() if known == dtype)
        return replace(self, dtype=word, num_bytes=math.prod(self.shape) * dtype.itemsize)


def is_safetensors(folder: Path) -> bool:
    return (folder / INDEX).is_file() or (folder / SINGLE).is_file()


def list_entries(folder: Path) -> dict[str, Entry]:
    """Every tensor of the checkpoint by name, in the order of its files; only headers are read."""
    if (folder / INDEX).is_file():
        files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    else:
        files = [SINGLE]
    return {entry.name: entry for file in files for entry in read_header(folder / Path(file).name)}


def read_header(path: Path) -> Iterator[Entry]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} is not a safetensors file: its header claims {length} bytes")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, value in header.items():
        begin, end = value["data_offsets"]
        yield Entry(
            name=name,
            dtype=value["dtype"],
            shape=tuple(value["shape"]),
            file=path,
            offset=8 + length + begin,
            num_bytes=end - begin,
        )


def read(entry: Entry) -> torch.Tensor:
    """The tensor in memory of its own: changing it does not touch the file."""
    if not entry.num_bytes:
        return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    # Uninitialised: a buffer of zeros would be written twice.
    buffer = torch.empty(entry.num_bytes, dtype=torch.uint8)
    rest, offset = memoryview(buffer.numpy()), entry.offset
    with entry.file.open("rb", buffering=0) as file:
        while rest:
            # Linux reads and writes 2 GiB at most in one call.
            count = os.preadv(file.fileno(), [rest], offset)
            if not count:
                raise ValueError(f"{entry.file.name} ends before the tensor {entry.name} does: the file is cut off")
            rest, offset = rest[count:], offset + count
    return buffer.view(DTYPES[entry.dtype]).reshape(entry.shape)


def plan_shards(entries: Iterable[Entry], max_bytes: int) -> list[list[Entry]]:
    """The entries in files of at most `max_bytes`; a single larger tensor gets a file of its own."""
    shards: list[list[Entry]] = [[]]
    filled = 0
    for entry in entries:
        if shards[-1] and filled + entry.num_bytes > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += entry.num_bytes
    # Wide types first, so that every tensor lies at a multiple of its own width and can be mapped without a copy.
    return [sorted(shard, key=lambda entry: -_width(entry)) for shard in shards]


def _width(entry: Entry) -> int:
    return entry.num_bytes // max(1, math.prod(entry.shape))


def shard_names(count: int) -> list[str]:
    return [SINGLE] if count == 1 else [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]


def write_index(folder: Path, shards: Sequence[Sequence[Entry]]) -> None:
    """The map from tensors to files that a checkpoint of several files needs; nothing for one file."""
    if len(shards) == 1:
        return
    weight_map = {
        entry.name: name for name, shard in zip(shard_names(len(shards)), shards, strict=True) for entry in shard
    }
    total = sum(entry.num_bytes for shard in shards for entry in shard)
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
    (folder / INDEX).write_text(text + "\n")


def lay_out(entries: Iterable[Entry], folder: Path, max_bytes: int) -> dict[str, Place]:
    """Begin a checkpoint of these tensors: all its files, with headers and room; where each tensor's bytes belong."""
    places: dict[str, Place] = {}
    plan = plan_shards(entries, max_bytes)
    for name, shard in zip(shard_names(len(plan)), plan, strict=True):
        with (folder / name).open("wb") as file:
            write_header(file, shard)
            end = file.tell()
            for entry in shard:
                places[entry.name] = Place(file=folder / name, offset=end)
                end += entry.num_bytes
            file.truncate(end)
    write_index(folder, plan)
    return places


def write_header(file: BinaryIO, shard: Sequence[Entry]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for entry in shard:
        end = begin + entry.num_bytes
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)


def write(tensor: torch.Tensor, place: Place) -> None:
    rest, offset = memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()), place.offset
    with place.file.open("r+b", buffering=0) as file:
        while rest:
            count = os.pwrite(file.fileno(), rest, offset)
            rest, offset = rest[count:], offset + count


def copy(source: Place, target: Place, num_bytes: int) -> None:
    """Copy bytes from file to file within the kernel: none of them enters this process."""
    with source.file.open("rb", buffering=0) as read_from, target.file.open("r+b", buffering=0) as write_to:
        done = 0
        while done < num_bytes:
            try:
                count = os.copy_file_range(
                    read_from.fileno(), write_to.fileno(), num_bytes - done, source.offset + done, target.offset + done
                )
            except OSError as error:
                if error.errno not in NO_COPY_IN_KERNEL:
                    raise
                piece = os.pread(read_from.fileno(), min(num_bytes - done, COPY_BYTES), source.offset + done)
                count = os.pwrite(write_to.fileno(), piece, target.offset + done)
            if not count:
                raise ValueError(f"{source.file.name} is shorter than its header says: the file is cut off")
            done += count
