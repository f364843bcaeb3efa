"""The proof, before anything is published, that the files answer as the trained model does: limits and figures.

The base with its adapter beside it is read first, from the trainer's own files and through peft; then the written
files, loaded as a server will load them. Small models are compared in float32, so that what is seen is the files'
rounding and not that of the arithmetic. The default limits are wide: a right merge lies several times below them, a
wrong one (a lost or doubled change, another base, a damaged file) several times above.
Not here: how a model is read (reading.py), prompts (prompts.py), answers through vLLM (served.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from export_worker.child import answers, resolution
from export_worker.child.failed import raise_failed
from export_worker.child.reading import Reading, relative
from shared.spec.parity import Parity

#: Below this relative effect rounding to the file's type hides the adapter, and its share says nothing.
SMALLEST_EFFECT = 0.02


def compare(reference: Reading, other: Reading) -> dict[str, Any]:
    found: dict[str, Any] = {
        "loss_reference": reference.loss,
        "loss": other.loss,
        "perplexity_reference": math.exp(reference.loss),
        "perplexity": math.exp(min(other.loss, 700.0)),
        "num_tokens": other.num_tokens,
    }
    if not other.logits:
        return found
    pairs = list(zip(reference.logits, other.logits, strict=False))
    same = sum((a.argmax(-1) == b.argmax(-1)).sum().item() for a, b in pairs)
    return found | {
        "max_abs_difference": torch.stack([(a - b).abs().max() for a, b in pairs]).max().item(),
        "relative_difference": relative(*zip(*pairs, strict=True)),
        "top1_agreement": same / sum(len(a) for a, _ in pairs),
    }


def check_merge(
    trained: Reading, merged: Reading, effect: float | None, limits: Parity, rounded: float | None = None
) -> dict[str, Any]:
    """The figures of the comparison. Raises VerificationFailed, with them, when one is beyond its limit. `rounded` is
    the share of the adapter's change that the files cannot hold."""
    found = compare(trained, merged) | {"adapter_effect": effect, "rounded_away": rounded}
    difference, lost = found["relative_difference"], limits.export_max_lost_effect
    wrong = []
    # Written so that a NaN fails: no comparison with it is true.
    if not difference <= limits.export_max_logit_difference:
        wrong.append(f"logits differ by {difference:.3f} of their size (limit {limits.export_max_logit_difference})")
    if effect is not None and effect >= SMALLEST_EFFECT and not difference <= lost * effect:
        wrong.append(f"{difference / effect:.0%} of what the adapter does is lost (limit {lost:.0%})")
    if not found["top1_agreement"] >= limits.export_min_agreement:
        least = limits.export_min_agreement
        wrong.append(f"the likeliest token agrees at {found['top1_agreement']:.0%} (limit {least:.0%})")
    found["answers"], differing = answers.compared(trained.answers, merged.answers, limits.export_max_answer_gap)
    if (wrong or differing) and rounded is not None and rounded > resolution.MUCH:
        why = f"{rounded:.0%} of what the adapter changes is smaller than the steps of the files' number format"
        differing.append(f"{why}: deploy the adapter beside its base, which rounds nothing, or set infer_dtype float32")
    raise_failed("the merged model does not answer as the trained one", [*wrong, *differing], found)
    return found


def check_quantized(merged: Reading, quantized: Reading, limits: Parity) -> dict[str, Any]:
    """The figures of the quantized model against the merged one. Raises VerificationFailed beyond the limit."""
    merged = merged.beside(quantized)
    found = compare(merged, quantized)
    ratio, most = math.exp(min(quantized.loss - merged.loss, 700.0)), limits.export_max_perplexity_ratio
    found |= {"loss_increase": quantized.loss - merged.loss, "perplexity_ratio": ratio}
    wrong = []
    if not ratio <= most:
        rises = f"from {found['perplexity_reference']:.3f} to {found['perplexity']:.3f}"
        wrong.append(f"perplexity rises {rises}, {ratio:.2f} times the merged model's (limit {most})")
    # Its answers may be others: only those that begin with all of the merged model's say where it ends.
    found["answers"], differing = answers.compared(merged.answers, quantized.answers, math.inf)
    raise_failed("the quantized model is too far from the merged one", [*wrong, *differing], found)
    return found


def texts(found: Sequence[answers.Answer]) -> list[str]:
    return [answer.text for answer in found]
