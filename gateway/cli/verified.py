"""What an export has proven of its files, on the terminal: a line for each comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.cli import show
from shared.tongues import Text

#: Comparisons of two models by the key of their figures.
PAIRS = {"merge": "merged against trained", "quantized": "quantized against merged"}


def lines(verification: Mapping[str, Any]) -> Iterator[str]:
    rows, source = verification.get("num_rows"), verification.get("rows_from")
    if rows:
        yield show.said(Text("compared on {rows} rows ({source})", rows=rows, source=source))
    for key, title in PAIRS.items():
        if found := verification.get(key):
            yield f"{show.said(title)}: {', '.join(_figures(found))}"
    if vllm := verification.get("vllm"):
        yield from _by_vllm(vllm)
    if left_out := verification.get("left_out"):
        yield str(left_out)


def _by_vllm(vllm: Mapping[str, Any]) -> Iterator[str]:
    """A line for each of the models that it was to answer from; one where it was not asked."""
    if not vllm.get("proven") and vllm.get("why"):
        yield f"{show.said('not answered by vLLM')}: {vllm['why']}"
    for name, found in vllm.items():
        if isinstance(found, dict):
            said = "answered by vLLM" if found.get("proven") else "not answered by vLLM"
            told = [*_figures(found), *([found["why"]] if found.get("why") else [])]
            yield f"{name}, {show.said(said)}: {', '.join(told)}"


def _figures(found: Mapping[str, Any]) -> Iterator[str]:
    before, after = found.get("loss_reference"), found.get("loss")
    if isinstance(before, float) and isinstance(after, float):
        yield show.said(Text("loss {before} -> {after}", before=f"{before:.4f}", after=f"{after:.4f}"))
    if isinstance(ratio := found.get("perplexity_ratio"), float):
        yield show.said(Text("perplexity x {ratio}", ratio=f"{ratio:.3f}"))
    if isinstance(same := found.get("top1_agreement"), float):
        yield show.said(Text("same likeliest token {share} %", share=f"{100 * same:.1f}"))
    if isinstance(differs := found.get("relative_difference"), float):
        yield show.said(Text("logits differ by {share} %", share=f"{100 * differs:.2f}"))
