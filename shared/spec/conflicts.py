"""Rules between groups of a training: which methods, losses and optimizers go together. Each says what to do instead.

Rules inside one group stand in the group; those of a stage or a method in its own declaration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shared import stages
from shared.rules import rule
from shared.spec import steps
from shared.stages.dpo import REFERENCE_FREE
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


@rule("pissa_init")
def pissa_beside_a_reference(spec: TrainSpec) -> str | None:
    """Its start takes the principal part out of the base: without the adapter that is no longer the reference."""
    stage = spec.tuning.stage
    compares = stage == "kto" or (stage == "dpo" and spec.plugged["dpo"].pref_loss not in REFERENCE_FREE)
    wrong = spec.lora.pissa_init and compares and spec.preference.ref_model is None
    text = "changes the base, with which stage {stage} compares: leave it out, or name the model in ref_model too"
    return Text(text, stage=stage) if wrong else None


def _of_conversations(field: str, is_given: Callable[[TrainSpec], Any]) -> Check:
    @rule(field)
    def check(spec: TrainSpec) -> str | None:
        wrong = is_given(spec) and spec.tuning.stage != "sft"
        return Text("is for stage sft, not for {stage}: leave it out", stage=spec.tuning.stage) if wrong else None

    return check


@rule("packing")
def packing_of_what_is_read_on(spec: TrainSpec) -> str | None:
    compares = spec.data.packing and stages.get(spec.tuning.stage).rows in ("pair", "labelled")
    text = "puts answers together, which stage {stage} compares: leave it out"
    return Text(text, stage=spec.tuning.stage) if compares else None


@rule("streaming")
def a_stream_ends_after_steps(spec: TrainSpec) -> str | None:
    wrong = spec.data.streaming and spec.train.max_steps < 1
    return "needs max_steps: it says how many rows are read" if wrong else None


def _of_next_tokens(field: str, is_given: Callable[[TrainSpec], Any]) -> Check:
    @rule(field)
    def check(spec: TrainSpec) -> str | None:
        wrong = is_given(spec) and spec.tuning.stage not in ("sft", "pt")
        text = "is of the loss of sft and pt, not of stage {stage}: leave it out"
        return Text(text, stage=spec.tuning.stage) if wrong else None

    return check


@rule("pissa_init")
def anchored_to_the_untouched_model(spec: TrainSpec) -> str | None:
    both = spec.lora.pissa_init and spec.loss.use_asft_loss
    return "changes the base to which use_asft_loss anchors: choose one" if both else None


@rule("use_llama_pro")
def added_blocks_among_others(spec: TrainSpec) -> str | None:
    wrong = spec.freeze.use_llama_pro and spec.tuning.finetuning_type == "full"
    return "trains some blocks only: set finetuning_type to freeze or lora" if wrong else None


@rule("freeze_trainable_layers", code="out_of_range")
def number_of_added_blocks(spec: TrainSpec) -> str | None:
    wrong = spec.freeze.use_llama_pro and spec.freeze.trainable_layers < 1
    return "is below 1: with use_llama_pro it is the number of added blocks" if wrong else None


@rule("train_from_scratch")
def everything_from_scratch(spec: TrainSpec) -> str | None:
    wrong = spec.architecture.train_from_scratch and spec.tuning.finetuning_type != "full"
    text = "cannot be true with finetuning_type {method}, which leaves random weights untrained: set it to full"
    return Text(text, method=spec.tuning.finetuning_type) if wrong else None


@rule("train_from_scratch")
def nothing_to_prefer_from_scratch(spec: TrainSpec) -> str | None:
    wrong = spec.architecture.train_from_scratch and spec.tuning.stage in ("dpo", "kto", "rm", "ppo")
    text = "cannot be true with stage {stage}, which starts from a model that answers: train with pt and sft first"
    return Text(text, stage=spec.tuning.stage) if wrong else None


@rule("resize_vocab")
def rows_of_readable_weights(spec: TrainSpec) -> str | None:
    both = spec.new_tokens.grows and spec.model.quantization_bit is not None
    return (
        "cannot add rows to a quantized model: leave quantization_bit out, or train without new tokens"
        if both
        else None
    )


@rule("resize_vocab")
def rows_of_whole_tables(spec: TrainSpec) -> str | None:
    both = spec.new_tokens.grows and spec.zero_stage() == 3
    return "adds rows to whole tables, which ZeRO-3 splits: use zero_stage 2" if both else None


@rule("zero_stage")
def merged_of_whole_weights(spec: TrainSpec) -> str | None:
    both = spec.changes_base() and spec.zero_stage() == 3
    return "3 splits the weights into which the adapter is to be merged: use zero_stage 2" if both else None


@rule("adapter_name_or_path")
def one_adapter_of_a_quantized_base(spec: TrainSpec) -> str | None:
    both = bool(spec.model.adapters[1:]) and spec.model.quantization_bit is not None
    return "names several adapters, which a quantized base cannot take up: leave quantization_bit out" if both else None


@rule("stage")
def merged_of_stages_that_make_models(spec: TrainSpec) -> str | None:
    wrong = spec.changes_base() and spec.tuning.stage in ("rm", "ppo")
    text = (
        "{stage} keeps an adapter and its head on the catalog's own base: leave out create_new_adapter, new tokens and "
        "rope_scaling, or change the model in a training before"
    )
    return Text(text, stage=spec.tuning.stage) if wrong else None


@rule("rope_scaling")
def stretched_and_readable(spec: TrainSpec) -> str | None:
    both = spec.architecture.rope_scaling is not None and spec.model.quantization_bit is not None
    text = "changes the base, so that the result is published merged, which a quantized one cannot be: leave one out"
    return text if both else None


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
    pissa_beside_a_reference,
    _of_conversations("use_dft_loss", lambda spec: spec.loss.use_dft_loss),
    _of_conversations("use_asft_loss", lambda spec: spec.loss.use_asft_loss),
    _of_conversations("use_eaft_loss", lambda spec: spec.loss.use_eaft_loss),
    _of_conversations("neftune_noise_alpha", lambda spec: spec.loss.neftune_noise_alpha is not None),
    _of_conversations("label_smoothing_factor", lambda spec: spec.loss.label_smoothing_factor > 0),
    _of_next_tokens("moe_aux_loss_coef", lambda spec: spec.architecture.moe_aux_loss_coef is not None),
    anchored_to_the_untouched_model,
    added_blocks_among_others,
    number_of_added_blocks,
    everything_from_scratch,
    nothing_to_prefer_from_scratch,
    rows_of_readable_weights,
    rows_of_whole_tables,
    merged_of_whole_weights,
    one_adapter_of_a_quantized_base,
    merged_of_stages_that_make_models,
    stretched_and_readable,
)
