"""Base + adapters -> one checkpoint of safetensors files, tensor by tensor, or through peft where that falls short.

The streamed merge holds one tensor at a time and gives, bit for bit, what peft's `merge_and_unload` gives. With one
exception, on purpose: where the base ties its input and output embeddings and a LoRA changes one of them, peft adds the
change to both (they share memory), and the merged model answers differently from the trained one. Here the two are
untied and only the trained one changes.
Not here: the tokenizer and the other small files (carry.py), the proof that the result is right (verify.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.pytorch_utils import Conv1D

from export_worker.child import shards
from export_worker.child.adapter import Adapter, BadAdapter, add_delta, load, why_not
from export_worker.child.shards import Entry
from export_worker.child.source import Source
from export_worker.child.watch import Watch

#: `export_size` counts in decimal gigabytes, as transformers does.
GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """What the model's class says about its tensors, found without loading any."""

    names: frozenset[str]
    #: Tied name -> the name whose tensor it shares.
    tied: Mapping[str, str]
    #: Weights that are stored as (in, out).
    transposed: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Merged:
    #: "streamed", "peft" or "copied".
    method: str
    #: Whether the output's embeddings had to be untied.
    untied: bool = False


def skeleton(source: Source) -> Skeleton:
    empty = source.empty()
    return Skeleton(
        names=frozenset(empty.state_dict()),
        tied=dict(empty.all_tied_weights_keys) if empty.config.tie_word_embeddings else {},
        transposed=frozenset(f"{name}.weight" for name, module in empty.named_modules() if isinstance(module, Conv1D)),
    )


def merge(source: Source, out: Path, *, max_shard_gb: float, watch: Watch) -> Merged:
    """Write the merged weights (and nothing else but config.json in peft's case) into the empty folder `out`."""
    bones = skeleton(source)
    if reason := _why_not_streamed(source, bones):
        watch.say(f"Merging in memory with peft instead of tensor by tensor: {reason}.", level="warning", method="peft")
        return merge_with_peft(source, out, max_shard_gb=max_shard_gb)
    loaded = [load(folder) for folder in source.adapters]
    untied = stream(source.model, loaded, out, bones, max_bytes=int(max_shard_gb * GB), watch=watch)
    return Merged(method="streamed" if loaded else "copied", untied=untied)


def _why_not_streamed(source: Source, bones: Skeleton) -> str:
    if not shards.is_safetensors(source.model):
        return "the base's weights are not safetensors"
    for folder in source.adapters:
        if reason := why_not(folder):
            return f"adapter {folder.name}: {reason}"
    # Some classes rename or fuse tensors while loading (mixtures of experts): the files' names are not the modules'.
    if source.adapters and bones.names - set(shards.list_entries(source.model)) - set(bones.tied):
        return "the base's class renames its tensors while loading"
    return ""


def merge_with_peft(source: Source, out: Path, *, max_shard_gb: float) -> Merged:
    tied = source.config().tie_word_embeddings
    merged = source.load_merged(source.adapters)
    merged.save_pretrained(out, max_shard_size=int(max_shard_gb * GB))
    return Merged(method="peft" if source.adapters else "copied", untied=tied and not merged.config.tie_word_embeddings)


def stream(
    model: Path, adapters: Sequence[Adapter], out: Path, bones: Skeleton, *, max_bytes: int, watch: Watch
) -> bool:
    """Write every shard; returns whether tied embeddings were written apart."""
    entries = shards.list_entries(model)
    _refuse_strangers(adapters, entries, bones)
    untied = any(adapter.touches(name) for pair in bones.tied.items() for name in pair for adapter in adapters)
    for twin, kept in bones.tied.items() if untied else ():
        shared = entries.get(kept) or entries[twin]
        entries.setdefault(kept, shared.named(kept))
        entries.setdefault(twin, shared.named(twin))
    plan = shards.plan_shards(entries.values(), max_bytes)
    total, done = sum(entry.num_bytes for entry in entries.values()), 0
    for name, shard in zip(shards.shard_names(len(plan)), plan, strict=True):
        with (out / name).open("wb") as file:
            shards.write_header(file, shard)
            for entry in shard:
                shards.write_tensor(file, merge_tensor(entry, adapters, bones))
                done += entry.num_bytes
                watch.progress(done, total, "bytes")
    shards.write_index(out, plan)
    return untied


def merge_tensor(entry: Entry, adapters: Sequence[Adapter], bones: Skeleton) -> torch.Tensor:
    """One tensor of the output: the base's, changed by each adapter in turn."""
    weight = shards.read(entry)
    for adapter in adapters:
        for replacing in _replacements(entry.name, adapter, bones):
            weight.copy_(_same_shape(shards.read(replacing), weight, entry.name))
        if entry.name in adapter.deltas:
            add_delta(weight, adapter.deltas[entry.name], transposed=entry.name in bones.transposed)
    return weight


def _replacements(name: str, adapter: Adapter, bones: Skeleton) -> list[Entry]:
    """A base weight saved with the adapter goes to every name tied to it, a fully trained module's only to its own."""
    tied = {name, bones.tied.get(name, name), *(twin for twin, kept in bones.tied.items() if kept == name)}
    found = [adapter.base[other] for other in sorted(tied) if other in adapter.base]
    return found[:1] + [entry for other, entry in adapter.own.items() if other == name]


def _same_shape(new: torch.Tensor, old: torch.Tensor, name: str) -> torch.Tensor:
    if new.shape != old.shape:
        raise BadAdapter(
            f"the adapter's {name} has shape {tuple(new.shape)}, the base's {tuple(old.shape)}: it was trained on "
            "another base or with a resized vocabulary, which cannot be merged yet",
            field="adapter_name_or_path",
        )
    return new


def _refuse_strangers(adapters: Sequence[Adapter], entries: Mapping[str, Entry], bones: Skeleton) -> None:
    """A change without a place in the base would be dropped in silence: the export would answer like the base."""
    places = set(entries) | set(bones.tied)
    for adapter in adapters:
        strangers = sorted({*adapter.deltas, *adapter.own, *adapter.base} - places)
        if strangers:
            raise BadAdapter(
                f"{len(strangers)} tensors of the adapter have no place in the base, the first is {strangers[0]}: "
                "it was trained on another base",
                field="adapter_name_or_path",
            )
        if not adapter.deltas and not adapter.own and not adapter.base:
            raise BadAdapter("the adapter holds no weights", field="adapter_name_or_path")
