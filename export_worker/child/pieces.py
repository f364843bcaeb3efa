"""A merge cut into pieces for the pipeline: tensors that change together, and runs of bytes that are only copied."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from export_worker.child import renaming, shards
from export_worker.child.bones import Bones
from export_worker.child.changes import Change
from export_worker.child.renaming import Group
from export_worker.child.shards import Entry, Place

#: Copied between two reports, and between two looks whether the export is to end.
COPY_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Bytes that stay as they are."""

    source: Place
    target: Place
    num_bytes: int
    held_bytes: int = 0
    alone: bool = False

    def run(self) -> None:
        shards.copy(self.source, self.target, self.num_bytes)


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Tensors that have to be seen together, and all that is done to them."""

    entries: tuple[Entry, ...]
    #: How the class has them; empty: they are changed as the files have them.
    groups: tuple[Group, ...]
    #: First to last.
    changes: tuple[Change, ...]
    base: Bones
    places: Mapping[str, Place]

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries)

    @property
    def held_bytes(self) -> int:
        return self.num_bytes * max(change.copies for change in self.changes)

    @property
    def alone(self) -> bool:
        return any(change.alone for change in self.changes)

    def run(self) -> None:
        tensors = {entry.name: shards.read(entry) for entry in self.entries}
        waiting = deque(self.changes)
        while waiting and tensors.keys() >= set(waiting[0].names):
            waiting.popleft().apply(tensors)
        for one in self.groups:
            tensors |= one.convert({name: tensors.pop(name) for name in one.sources}, self.base.model)
        for change in waiting:
            change.apply(tensors)
        for one in self.groups:
            tensors |= one.revert({name: tensors.pop(name) for name in one.targets}, self.base.model)
        for name, tensor in tensors.items():
            shards.write(tensor, self.places[name])


def cut(changes: Sequence[Change], base: Bones, places: Mapping[str, Place]) -> Iterator[Copy | Changed]:
    """In the order of the base's files."""
    together = _together(changes, base)
    for entry in base.entries.values():
        found = together.get(entry.name)
        if found is None:
            yield from _copies(entry, places[entry.name])
        elif entry.name == found.first:
            yield Changed(
                entries=tuple(base.entries[name] for name in found.names),
                groups=tuple(found.groups),
                changes=tuple(found.changes[number] for number in sorted(found.changes)),
                base=base,
                places=places,
            )


def why_not(changes: Iterable[Change], base: Bones) -> str:
    """Why the changed tensors cannot be written as the files have them; empty when they can."""
    converted: dict[str, Group] = {}
    for change in changes:
        if stuck := [name for name in change.names if name in converted and name not in base.places]:
            return f"one adapter changes {stuck[0]} after another changed it as the base's class has it"
        for one in (base.places[name] for name in change.names if name in base.places):
            if one.converter is not None and one.sources[0] not in converted:
                if not renaming.comes_back(one, base.model, base.entries):
                    return f"the base's class stores {one.targets[0]} in a way that cannot be undone"
                converted |= dict.fromkeys(one.sources, one)
    return ""


def _copies(entry: Entry, target: Place) -> Iterator[Copy]:
    for begin in range(0, entry.num_bytes, COPY_BYTES):
        yield Copy(
            source=Place(file=entry.file, offset=entry.offset + begin),
            target=Place(file=target.file, offset=target.offset + begin),
            num_bytes=min(COPY_BYTES, entry.num_bytes - begin),
        )


@dataclass(kw_only=True)
class _Together:
    names: list[str] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    #: By their number in the whole order.
    changes: dict[int, Change] = field(default_factory=dict)

    @property
    def first(self) -> str:
        return self.names[0]


def _together(changes: Sequence[Change], base: Bones) -> dict[str, _Together]:
    """By the name in the files: whatever a change, or a conversion, has to see at once."""
    found: dict[str, _Together] = {}
    for number, change in enumerate(changes):
        groups = [base.places[name] for name in change.names if name in base.places]
        names = [name for one in groups for name in one.sources] or list(change.names)
        parts = list({id(found[name]): found[name] for name in names if name in found}.values())
        whole = parts[0] if parts else _Together()
        for other in parts[1:]:
            whole.names += other.names
            whole.groups += other.groups
            whole.changes |= other.changes
        whole.names += [name for name in dict.fromkeys(names) if name not in whole.names]
        whole.groups += [one for one in groups if all(one is not known for known in whole.groups)]
        whole.changes[number] = change
        found |= dict.fromkeys(whole.names, whole)
    return found
