"""Base + adapters -> one checkpoint of safetensors files, tensor by tensor, or through peft where that falls short.

The streamed merge holds a few tensors at a time and gives, bit for bit, what peft's `merge_and_unload` gives. With one
exception, on purpose: where the base ties its input and output embeddings and a LoRA changes one of them, peft adds the
change to both (they share memory), and the merged model answers differently from the trained one. Here the two are
untied and only the trained one changes.
Not here: the tokenizer and the other small files (carry.py), the proof that the result is right (verify.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export_worker.child import adapter, bones, pickled, pieces, pipeline, shards
from export_worker.child.adapter import Adapter
from export_worker.child.bones import Bones
from export_worker.child.changes import BadAdapter, Change
from export_worker.child.shards import Entry
from export_worker.child.source import Source
from export_worker.child.watch import Watch
from shared.tongues import Text

#: Beside the output: old .bin files as safetensors, while they are merged.
UNPACKED = "unpacked"
#: `export_size` counts in decimal gigabytes, as transformers does.
GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Merged:
    #: "streamed", "peft" or "copied".
    method: str
    #: Whether the output's embeddings had to be untied.
    untied: bool = False
    #: Rows of the embeddings where an adapter brought another number than the base has.
    vocab_size: int | None = None

    @property
    def differs(self) -> dict[str, Any]:
        """What config.json has to say otherwise than the base's."""
        untied = {"tie_word_embeddings": False} if self.untied else {}
        return untied if self.vocab_size is None else untied | {"vocab_size": self.vocab_size}


def merge(source: Source, out: Path, *, max_shard_gb: float, watch: Watch) -> Merged:
    """Write the merged weights (and nothing else but config.json in peft's case) into the empty folder `out`."""
    if reason := _why_not_streamed(source):
        return _merge_with_peft(source, out, reason, max_shard_gb=max_shard_gb, watch=watch)
    scratch = out.parent / UNPACKED
    try:
        return _merge_files(source, out, scratch, max_shard_gb=max_shard_gb, watch=watch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _merge_files(source: Source, out: Path, scratch: Path, *, max_shard_gb: float, watch: Watch) -> Merged:
    named = shards.list_entries(source.model) if shards.is_safetensors(source.model) else {}
    base = bones.find(source.empty(), named or pickled.list_entries(source.model, scratch))
    loaded = [
        adapter.load(folder, base, weight) for folder, weight in zip(source.adapters, source.weights, strict=True)
    ]
    changes = [change for one in loaded for change in one.changes]
    if reason := pieces.why_not(changes, base):
        return _merge_with_peft(source, out, reason, max_shard_gb=max_shard_gb, watch=watch)
    return stream(loaded, base, out, max_bytes=int(max_shard_gb * GB), watch=watch)


def _why_not_streamed(source: Source) -> str:
    if not shards.is_safetensors(source.model) and not pickled.is_pickled(source.model):
        return "the base's weights are neither safetensors nor .bin files"
    reasons = ((folder.name, adapter.why_not(folder)) for folder in source.adapters)
    return next((f"adapter {name}: {reason}" for name, reason in reasons if reason), "")


def _merge_with_peft(source: Source, out: Path, reason: str, *, max_shard_gb: float, watch: Watch) -> Merged:
    text = Text("Merging in memory with peft instead of tensor by tensor: {reason}.", reason=reason)
    watch.say(text, level="warning", method="peft")
    tied = source.config().tie_word_embeddings
    merged = source.load_merged(source.adapters)
    merged.save_pretrained(out, max_shard_size=int(max_shard_gb * GB))
    return Merged(method="peft" if source.adapters else "copied", untied=tied and not merged.config.tie_word_embeddings)


def stream(loaded: Sequence[Adapter], base: Bones, out: Path, *, max_bytes: int, watch: Watch) -> Merged:
    untied = any(one.unties for one in loaded)
    if untied:
        base = _with_twins(base)
    # Of a tied pair the files hold one, and that is changed.
    held = {*base.places, *base.entries}
    changes = [change for one in loaded for change in one.changes if held.issuperset(change.names)]
    entries = _resized(changes, base)
    places = shards.lay_out(entries.values(), out, max_bytes)
    total, done = sum(entry.num_bytes for entry in base.entries.values()), 0

    def report(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        watch.progress(done, total, "bytes")

    pipeline.run(pieces.cut(changes, base, places), report)
    grown = {name: entries[name].shape[0] for name in entries if entries[name].shape != base.entries[name].shape}
    method = "streamed" if loaded else "copied"
    return Merged(method=method, untied=untied, vocab_size=next(iter(grown.values()), None))


def _with_twins(base: Bones) -> Bones:
    """The same with a tensor of its own for each name of a tied pair."""
    entries = dict(base.entries)
    for twin, kept in base.tied.items():
        here, there = (base.name_in_files(name) for name in (kept, twin))
        shared = entries.get(here) or entries[there]
        entries.setdefault(here, shared.named(here))
        entries.setdefault(there, shared.named(there))
    return bones.find(base.model, entries)


def _resized(changes: Sequence[Change], base: Bones) -> Mapping[str, Entry]:
    """The output's tensors: the base's, with other numbers of rows where an adapter's vocabulary is another."""
    entries = dict(base.entries)
    for change in changes:
        if change.rows is not None:
            name = base.places[change.names[0]].sources[0]
            if change.rows != entries[name].shape[0]:
                entries[name] = entries[name].with_rows(change.rows)
    tables = {name: base.places[name].sources[0] for name in base.vocabulary if name in base.places}
    rows = {entries[name].shape[0] for name in tables.values()}
    if len(rows) > 1:
        raise BadAdapter(
            f"the adapter resized one table of tokens and not the other ({' and '.join(map(str, sorted(rows)))} rows): "
            "it was trained on another base",
            field="adapter_name_or_path",
        )
    return entries
