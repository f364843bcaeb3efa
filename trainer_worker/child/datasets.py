"""The prepared samples as the datasets of a training: split off for validation, packed where that is wanted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import InvalidSpec
from trainer_worker.child.batch import Samples, packed, singles
from trainer_worker.child.context import Context
from trainer_worker.child.prepare import PREPARED
from trainer_worker.child.tokens import TokenStore


@dataclass(frozen=True, kw_only=True)
class Parts:
    train: Samples
    evaluation: Samples | None
    #: Of one process: tokens of the largest batch that can come up, and how many of them may be learned.
    most_tokens: int
    most_learned: int


def load(context: Context) -> Parts:
    """Raises InvalidSpec when validation would leave nothing to train on."""
    spec = context.spec
    places = json.loads((context.attempt.folder / PREPARED).read_text())
    store = TokenStore(Path(places["train"]))
    trained, held_out = split(len(store), spec.data.val_size, spec.train.seed)
    groups = packed(store.lengths, trained, spec.data.cutoff_len) if spec.data.packing else singles(trained)
    train = Samples(store, groups)
    evaluation = Samples(store, singles(held_out)) if len(held_out) else None
    if "eval" in places:
        other = TokenStore(Path(places["eval"]))
        evaluation = Samples(other, singles(range(len(other))))
    lengths = sorted((sum(int(store.lengths[index]) for index in group) for group in groups), reverse=True)
    most = sum(lengths[: spec.train.per_device_train_batch_size])
    share = store.meta["num_learned"] / max(1, store.meta["num_tokens"])
    return Parts(train=train, evaluation=evaluation, most_tokens=most, most_learned=int(most * share))


def split(num_rows: int, val_size: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on, in the order of the files, and indices held out: a share below 1, or a number."""
    count = round(num_rows * val_size) if val_size < 1 else int(val_size)
    if val_size > 0:
        count = max(1, count)
    if count >= num_rows:
        raise InvalidSpec(f"holds out {count} of {num_rows} samples: nothing is left to train on", field="val_size")
    order = np.random.default_rng(seed).permutation(num_rows)
    return sorted(order[count:].tolist()), sorted(order[:count].tolist())
