"""Samples as the model takes them: from the token store to tensors, with no padding wherever the model allows it.

A dataset item is a list of samples (one, or several packed together). `Flat` lays all samples of a batch one after
another in one row; `Padded` is for models whose layers would read across samples. Both hand over the positions whose
next token is learned, so that logits are computed for these alone, how many of them each sample has (`counts`), and
where each sample's last token lies (`ends`, counted through all rows).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trainer_worker.child.tokens import END

IGNORED = -100
#: One or several samples: their ids, for each the next id where it is learned, and the lengths of the samples.
Item = dict[str, Any]
Collator = Callable[[Sequence[Item]], dict[str, Any]]


def as_item(samples: Sequence[tuple[np.ndarray, np.ndarray]], end_id: int = IGNORED) -> Item:
    """Samples (ids and marks) that go together; `end_id` is learned where a mark says END."""
    return {
        # transformers' length grouping looks for this name.
        "input_ids": np.concatenate([ids for ids, _ in samples]),
        "targets": np.concatenate([targets(ids, marks, end_id) for ids, marks in samples]),
        "lengths": [len(ids) for ids, _ in samples],
    }


def targets(ids: np.ndarray, marks: np.ndarray, end_id: int = IGNORED) -> np.ndarray:
    """For each position the id that is to follow where one is learned, else IGNORED."""
    following = np.full(len(ids), IGNORED, dtype=np.int64)
    following[:-1] = np.where(marks[1:] == END, end_id, np.where(marks[1:] != 0, ids[1:], IGNORED))
    return following


# b: rows, t: tokens of a row, k: positions whose logits are computed, n: learned tokens of the batch
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
            "logits_to_keep": kept,  # k = n
        }
        if self.segments:
            inputs["segment_lengths"] = lengths
        counts = [int((piece != IGNORED).sum()) for piece in following.split(lengths)]
        ends = torch.tensor(lengths).cumsum(0) - 1
        return {
            "inputs": inputs,
            "learned": None,
            "counts": counts,
            "ends": ends,
            "lengths": lengths,
            **_learned(following[kept], len(ids), len(ids)),
        }


@dataclass(frozen=True, kw_only=True)
class Padded:
    """One row per sample, filled up at the end."""

    pad_id: int

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        samples = [sample for item in items for sample in _samples(item)]
        lengths = [len(ids) for ids, _ in samples]
        ids = torch.full((len(samples), max(lengths)), self.pad_id)
        mask = torch.zeros((len(samples), max(lengths)), dtype=torch.long)
        following = torch.full((len(samples), max(lengths)), IGNORED)
        for row, (given, targets) in enumerate(samples):
            ids[row, : len(given)] = torch.from_numpy(given.astype(np.int64))
            following[row, : len(given)] = torch.from_numpy(targets)
            mask[row, : len(given)] = 1
        kept = (following != IGNORED).any(dim=0).nonzero()[:, 0]
        inputs = {"input_ids": ids, "attention_mask": mask, "logits_to_keep": kept}  # b t, b t, k
        # A position is computed when any row learns it.
        learned = following[:, kept] != IGNORED  # b k
        counts = learned.sum(dim=1).tolist()
        ends = torch.arange(len(samples)) * max(lengths) + torch.tensor(lengths) - 1
        told = _learned(following[:, kept][learned], sum(lengths), ids.numel()) | {"lengths": lengths}
        return {"inputs": inputs, "learned": learned.flatten(), "counts": counts, "ends": ends, **told}


def _learned(targets: torch.Tensor, num_tokens: int, num_positions: int) -> dict[str, Any]:
    """`labels` is what the Trainer counts to average over a step; here every learned token (n). Positions are tokens
    and padding."""
    return {"targets": targets, "labels": targets, "num_tokens": num_tokens, "num_positions": num_positions}


def _samples(item: Item) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids and targets of each sample of an item."""
    places = np.cumsum(item["lengths"])[:-1]
    return list(zip(np.split(item["input_ids"], places), np.split(item["targets"], places), strict=True))


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Items of two samples each: what is averaged over are pairs (p)."""

    inner: Collator
    #: For a model that gives a score, which has no logits to keep.
    scored: bool = False

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        batch = self.inner(items) | {"labels": torch.zeros(len(items), dtype=torch.long)}  # p
        if self.scored:
            del batch["inputs"]["logits_to_keep"]
        return batch


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Answers with labels (a: answers), and a batch of those that do not belong together."""

    inner: Collator

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        labels = torch.tensor([item["label"] for item in items])  # a
        return self.inner(items) | {"labels": labels, "mismatched": self.inner([i["mismatched"] for i in items])}


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
