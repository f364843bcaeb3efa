"""What a model's class calls the tensors of its files: some classes rename, stack or split them while loading.

Most tensors have the same name on both sides. Mixtures of experts do not: their files hold each expert's matrices, the
class one stack of all. An adapter's changes are told in the class's names, and what is written has the files' again.
The conversions are transformers' own, run on a handful of tensors at a time instead of a model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)

from export_worker.child.shards import DTYPES, Entry

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Tensors of the files that together become tensors of the model."""

    #: Names in the files, in the order in which they are stacked.
    sources: tuple[str, ...]
    #: Names in the model; none: the class does not use what lies there.
    targets: tuple[str, ...]
    #: The pattern by which the converter knows each source; empty: they are renamed at most.
    patterns: tuple[str, ...] = ()
    converter: WeightConverter | None = None

    def convert(self, tensors: Tensors, model: PreTrainedModel) -> Tensors:
        """As the class has them."""
        if self.converter is None:
            return {target: tensors[source] for source, target in zip(self.sources, self.targets, strict=True)}
        converter = copy.deepcopy(self.converter)
        for source, pattern in zip(self.sources, self.patterns, strict=True):
            converter.add_tensor(self.targets[0], source, pattern, tensors[source])
        found = converter.convert(self.targets[0], model=model, config=model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in found.items()}

    def revert(self, tensors: Tensors, model: PreTrainedModel) -> Tensors:
        """As the files have them."""
        if self.converter is None:
            return {source: tensors[target] for source, target in zip(self.sources, self.targets, strict=True)}
        return dict(revert_weight_conversion(model, tensors))


def group(model: PreTrainedModel, entries: Mapping[str, Entry]) -> list[Group]:
    """How transformers loads the files into this class; `model` (without weights) is told what `revert` has to undo."""
    transforms = get_model_conversion_mapping(model)
    renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
    converters = [one for one in transforms if isinstance(one, WeightConverter)]
    known, prefix = model.state_dict(), model.base_model_prefix
    gathered: dict[str, list[tuple[str, str | None]]] = {}
    for name in sorted(entries, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if target not in known and name in known:
            target, pattern = rename_source_key(name, [], [], prefix, known)
        gathered.setdefault(target, []).append((name, pattern))
    vars(model)["_weight_conversions"] = [one for one in transforms if one.was_used()]
    by_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
    groups = []
    for target, sources in gathered.items():
        converter = by_pattern.get(sources[0][1] or "")
        groups += (
            _renamed(target, [name for name, _ in sources], known)
            if converter is None
            else [_converted(target, sources, converter, model, entries)]
        )
    return groups


def _renamed(target: str, sources: Iterable[str], known: Mapping[str, torch.Tensor]) -> list[Group]:
    return [Group(sources=(name,), targets=(target,) if target in known else ()) for name in sources]


def _converted(
    target: str,
    sources: list[tuple[str, str | None]],
    converter: WeightConverter,
    model: PreTrainedModel,
    entries: Mapping[str, Entry],
) -> Group:
    """What a converter makes of its sources is found by letting it work on tensors without data."""
    names, patterns = zip(*sources, strict=True)
    one = Group(sources=names, targets=(target,), patterns=patterns, converter=converter)
    made = one.convert({name: empty(entries[name]) for name in names}, model)
    return Group(sources=names, targets=tuple(made), patterns=patterns, converter=converter)


def empty(entry: Entry) -> torch.Tensor:
    return torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device="meta")


def comes_back(one: Group, model: PreTrainedModel, entries: Mapping[str, Entry]) -> bool:
    """Whether what the class made of these tensors can be written as the files had them."""
    before = {name: empty(entries[name]) for name in one.sources}
    try:
        after = one.revert(one.convert(dict(before), model), model)
    except (NotImplementedError, ValueError, RuntimeError, KeyError):
        return False
    return {name: (t.shape, t.dtype) for name, t in after.items()} == {
        name: (t.shape, t.dtype) for name, t in before.items()
    }
