"""When a training begins to learn its rows by heart: eval_loss rises while the loss still falls.

Found in what was measured so far, so that a training that was resumed is told no second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from shared.advice.finding import Finding, Origin, warning
from shared.curves import Points, points
from shared.tongues import Text

#: Less than this above the best validation is noise.
NOISE = 0.01


def remark(history: Sequence[Mapping[str, Any]], *, keeps_best: bool) -> Finding | None:
    """What there is to say right after the last validation of `history`."""
    validations = points(history, "eval_loss")
    if not validations or first_rise(history) != validations[-1][0]:
        return None
    best, low = min(validations, key=lambda point: point[1])
    text = Text(
        "eval_loss rises ({low} at step {best}, now {high}) while the training loss falls: the model over-fits.",
        low=f"{low:.4g}", best=f"{best:g}", high=f"{validations[-1][1]:.4g}",
    )  # fmt: skip
    advice = Text("Train fewer epochs, lower the learning rate, raise lora_dropout, or add data.")
    if not keeps_best:
        advice = Text(
            "Train fewer epochs, lower the learning rate, raise lora_dropout, or add data; load_best_model_at_end "
            "publishes the model of the best validation, early_stopping_steps ends in time."
        )
    return warning("num_train_epochs", Origin.PAPER, text, advice)


def first_rise(history: Sequence[Mapping[str, Any]]) -> float | None:
    """The step of the first validation that is the second in a row to be worse than the one before, with a loss that
    has fallen meanwhile."""
    losses, best = points(history, "loss"), float("inf")
    validations = list(dict(points(history, "eval_loss")).items())
    start = 0.0
    for first, second, third in zip(validations, validations[1:], validations[2:], strict=False):
        best = min(best, first[1])
        rises = all(before < after for before, after in pairwise((first[1], second[1], third[1])))
        is_noise = third[1] <= best + NOISE * abs(best)
        if rises and not is_noise and _falls(losses, (start, first[0]), (second[0], third[0])):
            return third[0]
        start = first[0]
    return None


def _falls(losses: Points, early: tuple[float, float], late: tuple[float, float]) -> bool:
    """Whether the mean loss of the later steps is below that of the earlier ones."""
    means = [[value for step, value in losses if low < step <= high] for low, high in (early, late)]
    return all(means) and fmean(means[1]) < fmean(means[0])
