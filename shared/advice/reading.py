"""Remarks on what a dataset looks like once it is tokenized: what `cutoff_len` cuts, and what packing would save."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shared.advice.finding import Finding, Origin, info, warning
from shared.spec import TrainSpec

PAPER, ESTIMATE = Origin.PAPER, Origin.ESTIMATE
#: Cutoffs are given in steps of this many tokens.
STEP = 64
#: A share of the cutoff below which most samples are short.
SHORT = 0.25


def remarks(spec: TrainSpec, lengths: Mapping[str, Any]) -> Iterator[Finding]:
    """`lengths` as of shared/preview.py."""
    if lengths["num_unusable"]:
        text = f"{lengths['num_unusable']} rows cannot be trained on with this template."
        yield warning("dataset", ESTIMATE, text, "Look at the rows whose `problem` says why.")
    if not lengths["num_rows"]:
        return
    yield from _cutoff(spec.data.cutoff_len, lengths)
    if not spec.data.packing and lengths["p95"] < SHORT * spec.data.cutoff_len and spec.tuning.stage in ("sft", "pt"):
        text = f"95 % of the samples have at most {lengths['p95']} tokens, of {spec.data.cutoff_len} that fit."
        yield info("packing", PAPER, text, "Many short texts: set neat_packing to true, samples do not see each other.")


def _cutoff(cutoff: int, lengths: Mapping[str, Any]) -> Iterator[Finding]:
    marks = f"P50 {lengths['p50']}, P95 {lengths['p95']}, P99 {lengths['p99']}, longest {lengths['length_max']} tokens."
    low, high = rounded(lengths["p95"]), rounded(lengths["p99"])
    advised = f"From the P95 to the P99 of the data: {high if low == high else f'{low} to {high}'}."
    if lengths["share_cut"] > 0.01:
        text = f"{marks} {100 * lengths['share_cut']:.1f} % of the samples are cut"
        lost = (
            f", {100 * lengths['share_unanswered']:.1f} % lose their whole answer"
            if lengths["share_unanswered"]
            else ""
        )
        yield warning("cutoff_len", PAPER, f"{text}{lost}.", f"{advised} Longer samples cost memory.")
    elif cutoff > 2 * high and cutoff > 512:
        yield info("cutoff_len", PAPER, f"{marks} cutoff_len {cutoff} is more than the data needs.", advised)
    else:
        yield info("cutoff_len", PAPER, marks, f"cutoff_len {cutoff} suits the data.")


def rounded(length: int) -> int:
    """The next cutoff that holds this many tokens."""
    return -(-length // STEP) * STEP
