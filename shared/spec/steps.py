"""Rules of a training's steps: optimizer, schedule, order of the data, and what is watched while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shared.rules import rule
from shared.spec.schedules import optimizer_options_complaint, schedule_options_complaint
from shared.tongues import Text

if TYPE_CHECKING:
    from shared.spec.train import TrainSpec

Check = Callable[["TrainSpec"], str | None]


@rule("lr_scheduler_kwargs", code="invalid_value")
def options_are_those_of_the_schedule(spec: TrainSpec) -> str | None:
    given = spec.optimizer.lr_scheduler_kwargs
    return schedule_options_complaint(spec.train.lr_scheduler_type, given or {})


@rule("lr_scheduler_kwargs")
def rate_falls(spec: TrainSpec) -> str | None:
    if spec.train.lr_scheduler_type != "polynomial":
        return None
    end = (spec.optimizer.lr_scheduler_kwargs or {}).get("lr_end", 1e-7)
    wrong = isinstance(end, int | float) and end >= spec.train.learning_rate
    text = "ends at {end:g}: must be below learning_rate {rate:g}"
    return Text(text, end=end, rate=spec.train.learning_rate) if wrong else None


@rule("lr_scheduler_type")
def a_plateau_is_seen_by_validating(spec: TrainSpec) -> str | None:
    blind = spec.train.lr_scheduler_type == "reduce_lr_on_plateau" and not spec.validates()
    return "is reduce_lr_on_plateau, which needs validation: give val_size or eval_dataset" if blind else None


@rule("optim_args", code="invalid_value")
def options_are_those_of_the_optimizer(spec: TrainSpec) -> str | None:
    given = spec.optimizer.optim_args
    return None if given is None else optimizer_options_complaint(spec.train.optim, given)


@rule("use_muon")
def one_optimizer(spec: TrainSpec) -> str | None:
    both = spec.optimizer.use_muon and spec.train.optim not in ("adamw_torch", "adamw_torch_fused")
    return (
        Text("cannot be true with optim {optim}: what Muon leaves is trained with adamw_torch", optim=spec.train.optim)
        if both
        else None
    )


@rule("use_muon")
def muon_without_other_groups(spec: TrainSpec) -> str | None:
    both = spec.optimizer.use_muon and spec.lora.loraplus_lr_ratio is not None
    return "cannot be true with loraplus_lr_ratio: each groups the weights in its own way" if both else None


@rule("use_muon")
def muon_of_whole_matrices(spec: TrainSpec) -> str | None:
    both = spec.optimizer.use_muon and spec.uses_deepspeed()
    return "needs whole matrices, which DeepSpeed flattens: leave deepspeed and zero_stage out" if both else None


@rule("train_sampling_strategy")
def one_order(spec: TrainSpec) -> str | None:
    asked = {
        "disable_shuffling": ("sequential", spec.data.disable_shuffling),
        "group_by_length": ("group_by_length", spec.train.group_by_length),
    }
    given = spec.loop.train_sampling_strategy
    for name, (order, is_asked) in asked.items():
        if is_asked and given not in ("random", order):
            return Text("is {given!r}, but {name} is true: choose one", given=given, name=name)
    return None


@rule("group_by_length")
def order_or_length(spec: TrainSpec) -> str | None:
    both = spec.train.group_by_length and spec.data.disable_shuffling
    return "cannot be true together with disable_shuffling, which keeps the order of the files" if both else None


def _watches_validation(field: str, is_given: Callable[[TrainSpec], Any]) -> Check:
    @rule(field)
    def check(spec: TrainSpec) -> str | None:
        blind = is_given(spec) and not spec.validates()
        return "needs validation: give val_size or eval_dataset" if blind else None

    return check


@rule("metric_for_best_model")
def accuracy_is_computed(spec: TrainSpec) -> str | None:
    needed = spec.loop.best_metric == "accuracy" and spec.tuning.stage in ("sft", "pt")
    missing = needed and not spec.tuning.compute_accuracy
    return "is accuracy, which is computed only with compute_accuracy: set it to true" if missing else None


@rule("load_best_model_at_end")
def best_of_stages_that_are_validated(spec: TrainSpec) -> str | None:
    wrong = spec.loop.load_best_model_at_end and spec.tuning.stage in ("rm", "ppo")
    return (
        Text("is not possible in stage {stage}, which trains a value head beside the model", stage=spec.tuning.stage)
        if wrong
        else None
    )


RULES: tuple[Check, ...] = (
    options_are_those_of_the_schedule,
    rate_falls,
    a_plateau_is_seen_by_validating,
    options_are_those_of_the_optimizer,
    one_optimizer,
    muon_without_other_groups,
    muon_of_whole_matrices,
    one_order,
    order_or_length,
    _watches_validation("load_best_model_at_end", lambda spec: spec.loop.load_best_model_at_end),
    _watches_validation("early_stopping_steps", lambda spec: spec.loop.early_stopping_steps is not None),
    _watches_validation("eval_on_start", lambda spec: spec.loop.eval_on_start),
    accuracy_is_computed,
    best_of_stages_that_are_validated,
)
