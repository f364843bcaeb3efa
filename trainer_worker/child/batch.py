"""Samples as the model takes them: from the token store to tensors, with no padding wherever the model allows it.

A dataset item is a list of samples (one, or several packed together). `Flat` lays all samples of a batch one after
another in one row; `Padded` is for models whose layers would read across samples. Both hand over the positions whose
next token is learned, so that logits are computed for these alone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainer_worker.child.tokens import TokenStore

IGNORED = -100
#: One sample: its ids, and for each whether it is learned.
Item = dict[str, Any]


class Samples(Dataset):
    """Rows of a token store; `groups` names the samples of each row."""

    def __init__(self, store: TokenStore, groups: Sequence[Sequence[int]]):
        self.store = store
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Item:
        samples = [self.store.sample(sample) for sample in self.groups[index]]
        return {
            # transformers' length grouping looks for this name.
            "input_ids": np.concatenate([ids for ids, _ in samples]),
            "targets": np.concatenate([targets(ids, marks) for ids, marks in samples]),
            "lengths": [len(ids) for ids, _ in samples],
        }


def targets(ids: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """For each position the next id where it is learned, else IGNORED."""
    following = np.full(len(ids), IGNORED, dtype=np.int64)
    following[:-1] = np.where(marks[1:], ids[1:], IGNORED)
    return following


# b: rows, t: tokens of a row, n: positions whose next token is learned
@dataclass(frozen=True, kw_only=True)
class Flat:
    """All samples in one row."""

    #: Whether our own attention, which is told the lengths, computes it; else the positions say where samples begin.
    segments: bool = True

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        following = torch.from_numpy(np.concatenate([item["targets"] for item in items]))
        ids = torch.from_numpy(np.concatenate([item["input_ids"] for item in items]).astype(np.int64))
        lengths = [length for item in items for length in item["lengths"]]
        kept = (following != IGNORED).nonzero()[:, 0]
        inputs = {
            "input_ids": ids[None],  # 1 t
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],  # 1 t
            "logits_to_keep": kept,  # n
        }
        if self.segments:
            inputs["segment_lengths"] = lengths
        return {"inputs": inputs, "labels": following[kept][None], "num_tokens": len(ids)}


@dataclass(frozen=True, kw_only=True)
class Padded:
    """One row per item, filled up at the end."""

    pad_id: int

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        longest = max(len(item["input_ids"]) for item in items)
        ids = torch.full((len(items), longest), self.pad_id)
        mask = torch.zeros((len(items), longest), dtype=torch.long)
        following = torch.full((len(items), longest), IGNORED)
        for row, item in enumerate(items):
            length = len(item["input_ids"])
            ids[row, :length] = torch.from_numpy(item["input_ids"].astype(np.int64))
            following[row, :length] = torch.from_numpy(item["targets"])
            mask[row, :length] = 1
        kept = (following != IGNORED).any(dim=0).nonzero()[:, 0]
        inputs = {"input_ids": ids, "attention_mask": mask, "logits_to_keep": kept}  # b t, b t, n
        return {"inputs": inputs, "labels": following[:, kept], "num_tokens": int(mask.sum())}


def singles(indices: Sequence[int]) -> list[list[int]]:
    """Every sample in a row of its own."""
    return [[int(index)] for index in indices]


def packed(lengths: Sequence[int], indices: Sequence[int], capacity: int, window: int = 1000) -> list[list[int]]:
    """Samples put together into rows of at most `capacity` tokens: the longest first, each where it fits best.

    Windows of samples are packed one after another, as LLaMA Factory does: time stays linear in the data.
    """
    rows: list[list[int]] = []
    for start in range(0, len(indices), window):
        rows += _best_fit(lengths, indices[start : start + window], capacity)
    return rows


def _best_fit(lengths: Sequence[int], indices: Sequence[int], capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    #: (room left, row), least room first.
    room: list[tuple[int, int]] = []
    for index in sorted(indices, key=lambda index: -lengths[index]):
        length = int(lengths[index])
        place = bisect_left(room, (length, -1))
        left, row = room.pop(place) if place < len(room) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(int(index))
        insort(room, (left - length, row))
    return rows
