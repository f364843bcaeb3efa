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

import torch

from export_worker.child import adapter, bones, carry, pickled, pieces, pipeline, shards
from export_worker.child.adapter import Adapter
from export_worker.child.bones import Bones
from export_worker.child.changes import BadAdapter, Cast, Change
from export_worker.child.shards import Entry
from export_worker.child.source import Source
from export_worker.child.watch import Watch
from shared.tongues import Text

#: `infer_dtype` that keeps the base's number format.
AS_IT_IS = "auto"
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
    #: Number format of the files where it is not the base's.
    dtype: str | None = None

    @property
    def differs(self) -> dict[str, Any]:
        """What config.json has to say otherwise than the base's."""
        untied = {"tie_word_embeddings": False} if self.untied else {}
        cast = {name: self.dtype for name in carry.DTYPE} if self.dtype else {}
        return untied | cast | ({} if self.vocab_size is None else {"vocab_size": self.vocab_size})


def merge(source: Source, out: Path, *, max_shard_gb: float, watch: Watch, dtype: str = AS_IT_IS) -> Merged:
    """Write the merged weights (and nothing else but config.json in peft's case) into the empty folder `out`, in the
    number format `dtype`."""
    if reason := _why_not_streamed(source):
        return _merge_with_peft(source, out, reason, max_shard_gb=max_shard_gb, watch=watch, dtype=dtype)
    scratch = out.parent / UNPACKED
    try:
        return _merge_files(source, out, scratch, max_shard_gb=max_shard_gb, watch=watch, dtype=dtype)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _merge_files(source: Source, out: Path, scratch: Path, *, max_shard_gb: float, watch: Watch, dtype: str) -> Merged:
    named = shards.list_entries(source.model) if shards.is_safetensors(source.model) else {}
    base = bones.find(source.empty(), named or pickled.list_entries(source.model, scratch))
    loaded = [
        adapter.load(folder, base, weight) for folder, weight in zip(source.adapters, source.weights, strict=True)
    ]
    changes = [change for one in loaded for change in one.changes]
    if reason := pieces.why_not([*_casts(base, dtype), *changes], base):
        return _merge_with_peft(source, out, reason, max_shard_gb=max_shard_gb, watch=watch, dtype=dtype)
    return stream(loaded, base, out, max_bytes=int(max_shard_gb * GB), watch=watch, dtype=dtype)


def _why_not_streamed(source: Source) -> str:
    if not shards.is_safetensors(source.model) and not pickled.is_pickled(source.model):
        return "the base's weights are neither safetensors nor .bin files"
    reasons = ((folder.name, adapter.why_not(folder)) for folder in source.adapters)
    return next((f"adapter {name}: {reason}" for name, reason in reasons if reason), "")


def _merge_with_peft(
    source: Source, out: Path, reason: str, *, max_shard_gb: float, watch: Watch, dtype: str
) -> Merged:
    text = Text("Merging in memory with peft instead of tensor by tensor: {reason}.", reason=reason)
    watch.say(text, level="warning", method="peft")
    tied = source.config().tie_word_embeddings
    merged = source.load_merged(source.adapters, dtype if dtype == AS_IT_IS else getattr(torch, dtype))
    merged.save_pretrained(out, max_shard_size=int(max_shard_gb * GB))
    return Merged(method="peft" if source.adapters else "copied", untied=tied and not merged.config.tie_word_embeddings)


def stream(
    loaded: Sequence[Adapter], base: Bones, out: Path, *, max_bytes: int, watch: Watch, dtype: str = AS_IT_IS
) -> Merged:
    untied = any(one.unties for one in loaded)
    if untied:
        base = _with_twins(base)
    # Of a tied pair the files hold one, and that is changed.
    held = {*base.places, *base.entries}
    changes = [change for one in loaded for change in one.changes if held.issuperset(change.names)]
    entries, casts = _resized(changes, base), _casts(base, dtype)
    written = {name: entry.as_type(getattr(torch, dtype)) if casts else entry for name, entry in entries.items()}
    places = shards.lay_out(written.values(), out, max_bytes)
    total, done = sum(entry.num_bytes for entry in base.entries.values()), 0

    def report(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        watch.progress(done, total, "bytes")

    pipeline.run(pieces.cut([*casts, *changes], base, places), report)
    grown = {name: entries[name].shape[0] for name in entries if entries[name].shape != base.entries[name].shape}
    return Merged(
        method="streamed" if loaded or casts else "copied",
        untied=untied,
        vocab_size=next(iter(grown.values()), None),
        dtype=dtype if casts else None,
    )


def _casts(base: Bones, dtype: str) -> list[Change]:
    """Of the tensors that the files have in another floating-point type."""
    if dtype == AS_IT_IS:
        return []
    wanted = getattr(torch, dtype)
    changed = (entry for entry in base.entries.values() if entry.as_type(wanted) != entry)
    return [Cast(name=entry.name, dtype=wanted) for entry in changed]


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
