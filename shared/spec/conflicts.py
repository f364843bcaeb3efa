"""Rules between groups of a training: which methods, losses and optimizers go together. Each says what to do instead.

Rules inside one group stand in the group; those of a stage or a method in its own declaration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shared import stages
from shared.rules import rule
from shared.spec import steps
from shared.tongues import Text

if TYPE_CHECKING:
    from shared.spec.train import TrainSpec

Check = Callable[["TrainSpec"], str | None]


def _kind_of_lora(field: str, is_given: Callable[[TrainSpec], Any]) -> Check:
    @rule(field)
    def check(spec: TrainSpec) -> str | None:
        method = spec.tuning.finetuning_type
        wrong = is_given(spec) and not spec.trains_adapter()
        return (
            Text("is a kind of LoRA, but finetuning_type is {method}: set it to lora", method=method) if wrong else None
        )

    return check


@rule("pissa_init")
def pissa_of_readable_weights(spec: TrainSpec) -> str | None:
    both = spec.lora.pissa_init and spec.model.quantization_bit is not None
    return "needs the weights as they are, not quantized: leave quantization_bit out" if both else None


@rule("pissa_init")
def pissa_of_whole_weights(spec: TrainSpec) -> str | None:
    both = spec.lora.pissa_init and spec.zero_stage() == 3
    return "needs whole matrices, which ZeRO-3 splits: use zero_stage 2, or leave pissa_init out" if both else None


def _of_conversations(field: str, is_given: Callable[[TrainSpec], Any]) -> Check:
    @rule(field)
    def check(spec: TrainSpec) -> str | None:
        wrong = is_given(spec) and spec.tuning.stage != "sft"
        return f"is for stage sft, not for {spec.tuning.stage}: leave it out" if wrong else None

    return check


@rule("packing")
def packing_of_what_is_read_on(spec: TrainSpec) -> str | None:
    compares = spec.data.packing and stages.get(spec.tuning.stage).rows in ("pair", "labelled")
    return f"puts answers together, which stage {spec.tuning.stage} compares: leave it out" if compares else None


@rule("streaming")
def a_stream_ends_after_steps(spec: TrainSpec) -> str | None:
    wrong = spec.data.streaming and spec.train.max_steps < 1
    return "needs max_steps: it says how many rows are read" if wrong else None


RULES: tuple[Check, ...] = (
    *steps.RULES,
    _of_conversations("neat_packing", lambda spec: spec.data.neat_packing),
    _of_conversations("train_on_prompt", lambda spec: spec.data.train_on_prompt),
    _of_conversations("mask_history", lambda spec: spec.data.mask_history),
    packing_of_what_is_read_on,
    _kind_of_lora("use_dora", lambda spec: spec.lora.use_dora),
    _kind_of_lora("use_rslora", lambda spec: spec.lora.use_rslora),
    _kind_of_lora("pissa_init", lambda spec: spec.lora.pissa_init),
    _kind_of_lora("loraplus_lr_ratio", lambda spec: spec.lora.loraplus_lr_ratio is not None),
    a_stream_ends_after_steps,
    pissa_of_readable_weights,
    pissa_of_whole_weights,
)
