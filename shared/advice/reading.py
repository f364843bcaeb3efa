"""Remarks on what a dataset looks like once it is tokenized: what `cutoff_len` cuts, and what packing would save."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shared.advice.finding import Finding, Origin, info, warning
from shared.spec import TrainSpec
from shared.tongues import Text

PAPER, ESTIMATE = Origin.PAPER, Origin.ESTIMATE
#: Cutoffs are given in steps of this many tokens.
STEP = 64
#: A share of the cutoff below which most samples are short.
SHORT = 0.25


def remarks(spec: TrainSpec, lengths: Mapping[str, Any]) -> Iterator[Finding]:
    """`lengths` as of shared/preview.py."""
    if lengths["num_unusable"]:
        text = Text("{count} rows cannot be trained on with this template.", count=lengths["num_unusable"])
        yield warning("dataset", ESTIMATE, text, "Look at the rows whose `problem` says why.")
    if not lengths["num_rows"]:
        return
    cutoff = spec.data.cutoff_len
    yield from _cutoff(cutoff, lengths)
    if not spec.data.packing and lengths["p95"] < SHORT * cutoff and spec.tuning.stage in ("sft", "pt"):
        told = "95 % of the samples have at most {most} tokens, of {cutoff} that fit."
        text = Text(told, most=lengths["p95"], cutoff=cutoff)
        yield info("packing", PAPER, text, "Many short texts: set neat_packing to true, samples do not see each other.")


def _cutoff(cutoff: int, lengths: Mapping[str, Any]) -> Iterator[Finding]:
    told = {name: lengths[name] for name in ("p50", "p95", "p99", "length_max")}
    marks = Text("P50 {p50}, P95 {p95}, P99 {p99}, longest {length_max} tokens.", **told)
    low, high = rounded(lengths["p95"]), rounded(lengths["p99"])
    advised = Text("From the P95 to the P99 of the data: {low} to {high}.", low=low, high=high)
    if low == high:
        advised = Text("From the P95 to the P99 of the data: {high}.", high=high)
    if lengths["share_cut"] > 0.01:
        text = _cut(marks, 100 * lengths["share_cut"], 100 * lengths["share_unanswered"])
        yield warning("cutoff_len", PAPER, text, Text("{advised} Longer samples cost memory.", advised=advised))
    elif cutoff > 2 * high and cutoff > 512:
        text = Text("{marks} cutoff_len {cutoff} is more than the data needs.", marks=marks, cutoff=cutoff)
        yield info("cutoff_len", PAPER, text, advised)
    else:
        yield info("cutoff_len", PAPER, marks, Text("cutoff_len {cutoff} suits the data.", cutoff=cutoff))


def _cut(marks: Text, cut: float, unanswered: float) -> Text:
    """Both in per cent of the samples."""
    if not unanswered:
        return Text("{marks} {cut:.1f} % of the samples are cut.", marks=marks, cut=cut)
    told = "{marks} {cut:.1f} % of the samples are cut, {unanswered:.1f} % lose their whole answer."
    return Text(told, marks=marks, cut=cut, unanswered=unanswered)


def rounded(length: int) -> int:
    """The next cutoff that holds this many tokens."""
    return -(-length // STEP) * STEP
