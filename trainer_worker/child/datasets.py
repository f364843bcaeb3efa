"""The prepared samples as the datasets of a training: split off for validation, packed where that is wanted.

An item is what a batch is made of: one or several samples (`Samples`), a piece of all texts joined (`Chunks`), or an
answer with its label (`Labelled`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shared import stages, witness
from shared.conversation import share, without_middle
from shared.errors import InvalidSpec
from shared.spec import TrainSpec
from trainer_worker.child.batch import Item, as_item, packed, singles
from trainer_worker.child.context import Context
from trainer_worker.child.prepare import PREPARED
from trainer_worker.child.tokens import TokenStore


class Items(Protocol):
    """A dataset as torch has it, and the length of each item, tokens."""

    lengths: np.ndarray

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    train: Items
    #: By the name under which its loss is told; "": under none. Empty: there is no validation.
    evaluation: Mapping[str, Items]
    #: Of one process: tokens of the largest batch that can come up, and how many of them may be learned.
    most_tokens: int
    most_learned: int


def load(context: Context) -> Parts:
    """Raises InvalidSpec when validation would leave nothing to train on."""
    spec = context.spec
    places = json.loads((context.attempt.folder / PREPARED).read_text())
    context.startup.follow(places["seconds"], places["ended"])
    store = TokenStore(Path(places["train"]))
    trained, held_out = split(num_rows(spec, store), spec.data.val_size, spec.train.seed)
    train = items(spec, store, trained, packs=bool(spec.data.packing))
    evaluation = {"": items(spec, store, held_out)} if held_out else {}
    for name, place in places["eval"].items():
        other = TokenStore(Path(place))
        evaluation[name] = items(spec, other, range(num_rows(spec, other)))
    most = int(np.sort(train.lengths)[::-1][: spec.train.per_device_train_batch_size].sum())
    share_learned = store.meta["num_learned"] / max(1, store.meta["num_tokens"])
    return Parts(train=train, evaluation=evaluation, most_tokens=most, most_learned=int(most * share_learned))


def held_out(context: Context) -> dict[str, Any]:
    """What an export knows the rows of the validation by, else some that were trained on."""
    spec, places = context.spec, json.loads((context.attempt.folder / PREPARED).read_text())
    store = TokenStore(Path(places["train"]))
    trained, split_off = split(num_rows(spec, store), spec.data.val_size, spec.train.seed)
    if places["eval"]:
        stores = (TokenStore(Path(place)) for place in places["eval"].values())
        pairs = [(other, row) for other in stores for row in range(num_rows(spec, other))]
        return {"from": "eval_dataset", "digests": _digests(spec, pairs)}
    return {
        "from": "val_size" if split_off else "dataset",
        "digests": _digests(spec, [(store, row) for row in split_off or trained]),
    }


def _digests(spec: TrainSpec, rows: Sequence[tuple[TokenStore, int]]) -> list[str]:
    """Of a pair the better answer counts."""
    step = 2 if stages.get(spec.tuning.stage).rows == "pair" else 1
    return [witness.digest(store.sample(step * row)[0].tolist()) for store, row in rows[: witness.NUM_TOLD]]


def num_rows(spec: TrainSpec, store: TokenStore) -> int:
    return len(store) // (2 if stages.get(spec.tuning.stage).rows == "pair" else 1)


def items(spec: TrainSpec, store: TokenStore, rows: Sequence[int], *, packs: bool = False) -> Items:
    """Of the stage's kind. Joined texts are joined in a validation too: each may be longer than `cutoff_len`."""
    kind, room = stages.get(spec.tuning.stage).rows, spec.data.cutoff_len
    if kind == "text" and spec.data.packing:
        return Chunks(store, rows, room)
    if kind == "labelled":
        return Labelled(store, rows, room)
    if kind == "pair":
        return Samples(store, [[2 * row, 2 * row + 1] for row in rows])
    return Samples(store, packed(store.lengths, rows, room) if packs else singles(rows))


class Samples:
    """Samples of a token store; `groups` names those of each item."""

    def __init__(self, store: TokenStore, groups: Sequence[Sequence[int]]):
        self.store = store
        self.groups = groups
        lengths = store.lengths
        self.lengths = np.array([lengths[list(group)].sum() for group in groups])

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Item:
        return as_item([self.store.sample(sample) for sample in self.groups[index]], self.store.end_id)


class Chunks:
    """All texts one after another, cut into pieces of one length; the last may be shorter. A piece is read as one
    text: what stands before is seen, also beyond the end of a text, as is usual in pre-training."""

    def __init__(self, store: TokenStore, rows: Sequence[int], size: int):
        self.store, self.rows, self.size = store, rows, size
        #: Where each text begins, and where the last one ends.
        self.starts = np.concatenate([[0], np.cumsum(store.lengths[list(rows)])])
        total = int(self.starts[-1])
        # A single token at the end would be predicted from nothing.
        self.count = max(1, -(-(total - 1) // size))
        self.lengths = np.array([min(size, total - place * size) for place in range(self.count)])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        begin, end = index * self.size, index * self.size + int(self.lengths[index])
        first, last = np.searchsorted(self.starts, [begin, end - 1], side="right") - 1
        pieces = [self.store.sample(self.rows[place]) for place in range(first, last + 1)]
        inside = slice(begin - int(self.starts[first]), end - int(self.starts[first]))
        ids, marks = (np.concatenate(parts)[inside] for parts in zip(*pieces, strict=True))
        return as_item([(ids, marks)])


class Labelled:
    """Answers with their labels, and beside each its prompt with the answer of the row before: a pair that does not
    belong together, by which the distance to the reference is estimated. The first takes the last one's answer."""

    def __init__(self, store: TokenStore, rows: Sequence[int], cutoff_len: int):
        self.store, self.rows, self.cutoff_len = store, rows, cutoff_len
        self.lengths = store.lengths[list(rows)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        own, before = self.rows[index], self.rows[index - 1]
        extra: dict[str, Any] = {"label": int(self.store.labels[own]), "mismatched": self._mismatched(own, before)}
        return as_item([self.store.sample(own)]) | extra

    def _mismatched(self, own: int, before: int) -> Item:
        (prompt, _), (_, answer) = (_parted(*self.store.sample(row)) for row in (own, before))
        num_prompt, num_answer = share(len(prompt), len(answer), self.cutoff_len)
        prompt, answer = without_middle(prompt, num_prompt), answer[:num_answer]
        marks = np.arange(len(prompt) + len(answer)) >= len(prompt)
        return as_item([(np.array([*prompt, *answer]), marks)])


def _parted(ids: np.ndarray, marks: np.ndarray) -> tuple[list[int], list[int]]:
    """Prompt and answer."""
    start = int(marks.argmax())
    return ids[:start].tolist(), ids[start:].tolist()


def split(num_rows: int, val_size: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on, in the order of the files, and indices held out: a share below 1, or a number."""
    count = round(num_rows * val_size) if val_size < 1 else int(val_size)
    if val_size > 0:
        count = max(1, count)
    if count >= num_rows:
        raise InvalidSpec(f"holds out {count} of {num_rows} samples: nothing is left to train on", field="val_size")
    order = np.random.default_rng(seed).permutation(num_rows)
    return sorted(order[count:].tolist()), sorted(order[:count].tolist())
