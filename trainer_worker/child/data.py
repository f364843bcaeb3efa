"""Rows of the datasets that run.json names, as they are trained on: read, drawn, mixed, and no more than are needed.

From files, or (a name that is no path) from the Hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from shared import datafiles, stages
from shared.rows import Row
from shared.spec import TrainSpec
from trainer_worker.child import mixing

Named = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Need:
    """How much a stream is read; None: to its end."""

    num_rows: int | None = None
    num_tokens: int | None = None

    def is_met(self, num_rows: int, num_tokens: int) -> bool:
        rows, tokens = self.num_rows, self.num_tokens
        return (rows is not None and num_rows >= rows) or (tokens is not None and num_tokens >= tokens)


def need(spec: TrainSpec, num_processes: int) -> Need:
    """Of a stream: what `max_steps` take and the validation holds out. Packed rows are full, and as many."""
    if not spec.data.streaming:
        return Need()
    train = spec.train
    batch = train.per_device_train_batch_size * train.gradient_accumulation_steps * num_processes
    num_rows = train.max_steps * batch + int(spec.data.val_size)
    return Need(num_tokens=num_rows * spec.data.cutoff_len) if spec.data.packing else Need(num_rows=num_rows)


def read(datasets: Sequence[Named], spec: TrainSpec, *, streams: bool) -> Iterator[Row]:
    """The rows of one part in their order. Raises InvalidDataset."""
    sources = [partial(_limited, dataset, spec) for dataset in datasets]
    rows = mixing.mixed(sources, spec.data.mix_strategy, spec.data.interleave_probs, spec.train.seed)
    if streams and not spec.data.disable_shuffling:
        return mixing.shuffled(rows, spec.data.buffer_size, spec.train.seed)
    return rows


def identity(datasets: Sequence[Named], spec: TrainSpec, needed: Need) -> dict[str, Any]:
    """What the rows of `read` depend on: content of the datasets, how they are read, and their order."""
    data = spec.data
    order: dict[str, Any] = {"max_samples": data.max_samples}
    if len(datasets) > 1:
        order |= {"mix_strategy": data.mix_strategy, "interleave_probs": data.interleave_probs}
    if needed != Need():
        order |= {"need": vars(needed), "buffer_size": data.buffer_size, "in_order": data.disable_shuffling}
    is_random = needed != Need() or data.interleave_probs or any(map(_num_samples, datasets))
    return {
        "datasets": [_identity(dataset) for dataset in datasets],
        "order": order | ({"seed": spec.train.seed} if is_random else {}),
    }


def _identity(dataset: Named) -> dict[str, Any]:
    path = Path(dataset["path"])
    digest = dataset["digest"] or (_digest(path) if path.exists() else None)
    return {"content": digest or dataset["path"], "format": dataset["format"], "columns": dataset["columns"]}


def _limited(dataset: Named, spec: TrainSpec) -> Iterator[Row]:
    source = partial(_all, dataset, (spec.tuning.stage, stages.get(spec.tuning.stage).rows), spec.data.streaming)
    if drawn := _num_samples(dataset):
        return mixing.resampled(source, drawn, spec.data.max_samples, spec.train.seed)
    return islice(source(), spec.data.max_samples)


def _num_samples(dataset: Named) -> int | None:
    number: int | None = (dataset["columns"] or {}).get("num_samples")
    return number


def _all(dataset: Named, stage: tuple[str, str], streams: bool) -> Iterator[Row]:
    if datafiles.is_local(dataset):
        return datafiles.rows(dataset, stage)
    from datasets import load_dataset  # takes seconds

    rows = load_dataset(**datafiles.hub_arguments(dataset), streaming=streams)
    return datafiles.hub_rows(rows, dataset, stage)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    for file in datafiles.files(path):
        with open(file, "rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()
