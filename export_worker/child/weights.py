"""That the written weights are the base's and the adapters' changes, tensor by tensor, whatever the model's size.

What no adapter names has to be the base's to the bit; what one names has to have moved by what its factors say, within
the rounding of the files' type. So one change that was dropped among hundreds is seen, of which logits would show
little. The files are read again for it, and none of the merge's arithmetic is used. Of adapters that are more than
factors (DoRA and the like) only that each tensor has changed is looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key

from export_worker.child import adapter, bones, shards
from export_worker.child.failed import raise_failed
from export_worker.child.shards import Entry
from export_worker.child.source import Source
from export_worker.child.watch import Watch

#: Part of a change that may be missing beyond rounding.
TOLERANCE = 0.1
#: Share of a tensor's numbers that have to move in the files' type before it counts that they did not.
LEAST_DUE = 0.01
#: Rows of a matrix that are computed at once.
CHUNK_BYTES = 64 * 1024**2
#: Names that are told where many are wrong.
NUM_TOLD = 3


@dataclass(frozen=True, kw_only=True)
class Factors:
    a: Entry
    b: Entry
    scale: float


@dataclass(kw_only=True)
class Named:
    """What all adapters say of one tensor."""

    factors: list[Factors] = field(default_factory=list)
    #: Whether it is replaced, or changed in a way that is not looked at here.
    otherwise: bool = False


@dataclass(kw_only=True)
class Tally:
    num_same: int = 0
    num_changed: int = 0
    #: Changes below the rounding of the files' type: there they cannot be told from none.
    num_below_rounding: int = 0
    #: Largest part of a change that is missing, beyond rounding.
    largest_missing: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, Any]:
        told = {name: value for name, value in vars(self).items() if name != "wrong"}
        return {"compared": True, **told, "num_wrong": len(self.wrong)}


def check(source: Source, merged: Path, watch: Watch) -> dict[str, Any]:
    """Figures, or why there are none. Raises VerificationFailed where a tensor is not what it has to be."""
    if not (shards.is_safetensors(source.model) and shards.is_safetensors(merged)):
        return {"compared": False, "why": "the files are not safetensors"}
    base, written = shards.list_entries(source.model), shards.list_entries(merged)
    named = _named(source)
    tied = bones.find(source.empty(), base).tied
    origins = {name: origin for name in written if (origin := _origin(name, base, tied)) is not None}
    if origins.keys() != written.keys() or named.keys() - written.keys() - {*tied, *tied.values()}:
        return {"compared": False, "why": "the model's class names its tensors otherwise than its files do"}
    tally = Tally(wrong=[f"{name} is missing" for name in base.keys() - written.keys()])
    done, total = 0, sum(entry.num_bytes for entry in written.values())
    for name, entry in written.items():
        _compare(origins[name], entry, _told(name, named, written, tied), tally)
        done += entry.num_bytes
        watch.progress(done, total, "bytes compared")
    told = ", ".join(tally.wrong[:NUM_TOLD])
    wrong = [f"{len(tally.wrong)} tensors are wrong: {told}"] if tally.wrong else []
    raise_failed("the written weights are not the base's with the adapter's changes", wrong, tally.figures)
    return tally.figures


def _origin(name: str, base: Mapping[str, Entry], tied: Mapping[str, str]) -> Entry | None:
    """The base's tensor; of one that was tied and is not any more, that which both were."""
    twins = [tied.get(name), *(twin for twin, kept in tied.items() if kept == name)]
    return base.get(name) or next((base[twin] for twin in twins if twin in base), None)


def _told(name: str, named: Mapping[str, Named], written: Mapping[str, Entry], tied: Mapping[str, str]) -> Named | None:
    """What adapters say of a tensor; where a tied pair is written as one, of either name."""
    twins = {tied.get(name), *(twin for twin, kept in tied.items() if kept == name)}
    lone = [named[twin] for twin in twins if twin in named and twin not in written]
    return named.get(name) or next(iter(lone), None)


def _named(source: Source) -> dict[str, Named]:
    found: dict[str, Named] = {}
    for folder, weight in zip(source.adapters, source.weights, strict=True):
        for name, factors in _read(folder, weight):
            one = found.setdefault(name, Named())
            if factors is None:
                one.otherwise = True
            else:
                one.factors.append(factors)
    return found


def _read(folder: Path, weight: float) -> Iterator[tuple[str, Factors | None]]:
    """Names of the tensors that an adapter changes, with its factors where they are all of it."""
    config = json.loads((folder / adapter.CONFIG).read_text())
    if not (folder / adapter.WEIGHTS).is_file():
        return
    plain, pairs = adapter.is_plain(config), dict[str, dict[str, Entry]]()
    for entry in shards.read_header(folder / adapter.WEIGHTS):
        name = entry.name.removeprefix(adapter.PREFIX)
        module, _, kind = name.partition(".lora_")
        if kind and plain:
            pairs.setdefault(f"{module}.weight", {})[kind.removesuffix(".weight")] = entry
        elif kind:
            yield f"{module}.weight", None
        else:
            yield name.replace(".base_layer.", ".").replace(adapter.TOKENS, ".weight"), None
    for name, pair in pairs.items():
        a, b = (next(entry for kind, entry in pair.items() if kind.endswith(letter)) for letter in "AB")
        yield name, Factors(a=a, b=b, scale=weight * _scale(config, name.removesuffix(".weight"), a.shape[0]))


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    patterns = config.get("alpha_pattern") or {}
    alpha: float = patterns.get(get_pattern_key(patterns.keys(), module), config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _compare(origin: Entry, written: Entry, told: Named | None, tally: Tally) -> None:
    after = shards.read(written)
    # `infer_dtype` casts the base first, and then it is changed.
    before = shards.read(origin).to(after.dtype)
    if told is None:
        if before.shape != after.shape or not torch.equal(_bits(before), _bits(after)):
            tally.wrong.append(f"{written.name} is not the base's")
        tally.num_same += 1
    elif told.otherwise or before.shape != after.shape:
        if before.shape == after.shape and torch.equal(_bits(before), _bits(after)):
            tally.num_below_rounding += 1
        tally.num_changed += 1
        if not torch.isfinite(after.float()).all():
            tally.wrong.append(f"{written.name} holds what is no number")
    else:
        _compare_change(before, after, told.factors, written.name, tally)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _compare_change(
    before: torch.Tensor, after: torch.Tensor, factors: Sequence[Factors], name: str, tally: Tally
) -> None:
    """Norms of what should have been added, of what is missing of it, and of what rounding may cost. A change below
    that is looked for number by number: of those that it should move by a step of their type, most have moved."""
    missing, size, values = 0.0, 0.0, 0.0
    num_due, num_unmoved = 0, 0
    for rows, change in _changes(factors, before):
        moved = after[rows].float() - before[rows].float()
        due = (before[rows].float() + change).to(after.dtype) != before[rows]
        num_due += int(due.sum())
        num_unmoved += int((due & (moved == 0)).sum())
        missing += (moved - change).square().sum(dtype=torch.float64).item()
        size += change.square().sum(dtype=torch.float64).item()
        values += after[rows].float().square().sum(dtype=torch.float64).item()
    missing, size = math.sqrt(missing), math.sqrt(size)
    # Each number is off by half a unit in its last place at most; peft rounds the change, and then the sum.
    rounding = torch.finfo(after.dtype).eps * (math.sqrt(values) + size) / 2 * len(factors)
    tally.num_changed += 1
    tally.num_below_rounding += size <= rounding
    if size > 0:
        tally.largest_missing = max(tally.largest_missing, (missing - rounding) / size)
    # Written so that a NaN fails: no comparison with it is true.
    dropped = num_due > LEAST_DUE * before.numel() and num_unmoved > num_due / 2
    if dropped or not missing <= TOLERANCE * size + rounding:
        tally.wrong.append(f"{name} has not changed by what the adapter says")


def _changes(factors: Sequence[Factors], weight: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """The sum of scale * B @ A, some rows at a time, as the weight lies in its file."""
    pairs = [(shards.read(one.a).float(), shards.read(one.b).float() * one.scale) for one in factors]
    step = max(1, CHUNK_BYTES // (4 * weight.shape[1]))
    for start in range(0, weight.shape[0], step):
        rows = slice(start, start + step)
        parts = []
        for a, b in pairs:
            # Embeddings and Conv1D keep their weights the other way round.
            straight = (b.shape[0], a.shape[1]) == tuple(weight.shape)
            parts.append(b[rows] @ a if straight else (b @ a[:, rows]).T)
        yield rows, torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]
