"""When a training is looked at and when it ends: validation, the best model, early stopping, order of the data."""

from __future__ import annotations

from dataclasses import dataclass

from shared.param import param
from shared.rules import rule

#: What a validation measures, by stage; `eval_` may stand before each.
MEASURES = (
    "loss", "accuracy", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected",
)  # fmt: skip
METRICS = (*MEASURES, *(f"eval_{name}" for name in MEASURES))
#: Better when smaller.
LOSSES = ("loss", "eval_loss")


@dataclass(frozen=True, kw_only=True)
class Loop:
    load_best_model_at_end: bool = param(
        False, "Publish the model of the best validation instead of the last one.", source="HF", since=2
    )
    metric_for_best_model: str | None = param(
        None, "What tells which is best. Left out: loss.", type=str, choices=METRICS, source="HF", since=2
    )
    greater_is_better: bool | None = param(
        None,
        "Whether the best metric is the greatest. Left out: for everything but a loss.",
        type=bool,
        source="HF",
        since=2,
    )
    early_stopping_steps: int | None = param(
        None,
        "Stop after so many validations in a row without a better one.",
        type=int,
        minimum=1,
        maximum=10_000,
        unit="validations",
        since=2,
        advice="3 to 5, with load_best_model_at_end.",
    )
    eval_on_start: bool = param(False, "Validate once before the first step.", source="HF", since=2)
    eval_delay: int = param(
        0,
        "Steps (epochs with eval_strategy epoch) before the first validation.",
        minimum=0,
        source="HF",
        since=2,
    )
    logging_strategy: str = param(
        "steps",
        "When metrics are told: every logging_steps, every epoch, or at the end only.",
        choices=("no", "steps", "epoch"),
        source="HF",
        since=2,
    )
    train_sampling_strategy: str = param(
        "random",
        "Order of the data: shuffled, as in the files, or shuffled with like lengths together.",
        choices=("random", "sequential", "group_by_length"),
        source="HF",
        since=2,
    )
    data_seed: int | None = param(
        None,
        "Seed of the order of the data. Left out: seed.",
        type=int,
        minimum=0,
        maximum=2**32 - 1,
        source="HF",
        since=2,
    )
    full_determinism: bool = param(
        False, "Use only operations whose results are the same in every run; slower.", source="HF", since=2
    )
    tf32: bool | None = param(
        None,
        "Whether float32 products may run in TensorFloat-32 (NVIDIA cards since Ampere). Left out: the library's way.",
        type=bool,
        source="HF",
        since=2,
    )

    oom_recovery: bool = param(
        True,
        "When memory does not suffice, go on from the last checkpoint with half the micro-batch and twice the "
        "accumulation, down to 1, then with activations recomputed: the batch of a step stays the same.",
        source="ours",
        since=3,
        aliases=("auto_find_batch_size",),
        advice="true; false to see at once that it does not fit.",
    )

    @rule("greater_is_better")
    def greater_loss_is_not_better(self) -> str | None:
        wrong = self.greater_is_better and self.metric_for_best_model in (None, *LOSSES)
        return "is true, but the metric is a loss: set it to false, or metric_for_best_model" if wrong else None

    @property
    def best_metric(self) -> str:
        """Without `eval_`."""
        return (self.metric_for_best_model or "loss").removeprefix("eval_")

    @property
    def best_is_greatest(self) -> bool:
        return self.best_metric != "loss" if self.greater_is_better is None else self.greater_is_better
