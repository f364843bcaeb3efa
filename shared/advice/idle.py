"""Fields that were sent and mean nothing beside the others: accepted, since files carry them along, but said.

What is asked is the body, not the spec: a default that nobody sent is no news.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shared import formats, schema
from shared.advice.finding import Finding, Origin, warning
from shared.advice.preferring import PREFERRING
from shared.param import Param
from shared.spec import EvaluateSpec, ExportSpec, GenerateSpec, TrainSpec
from shared.spec.tracking import SWANLAB, TRACKIO, WANDB
from shared.tongues import Text

#: Optimizers that read Adam's decays.
ADAM = "adam"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Fields that are read only where something else holds."""

    fields: tuple[str, ...]
    holds: Callable[[Any], bool]
    #: What has to hold, as a sentence names it.
    what: str


TRAIN = (
    Needs(
        fields=("quantization_type", "double_quantization", "quantization_method"),
        holds=lambda spec: spec.model.quantization_bit is not None,
        what="quantization_bit",
    ),
    Needs(
        fields=("use_reentrant_gc",),
        holds=lambda spec: not spec.model.disable_gradient_checkpointing,
        what="disable_gradient_checkpointing false",
    ),
    Needs(fields=("pissa_iter", "pissa_convert"), holds=lambda spec: spec.lora.pissa_init, what="pissa_init"),
    Needs(
        fields=("loraplus_lr_embedding",),
        holds=lambda spec: spec.lora.loraplus_lr_ratio is not None,
        what="loraplus_lr_ratio",
    ),
    Needs(
        fields=("lora_alpha", "additional_target", "create_new_adapter"),
        holds=lambda spec: spec.trains_adapter(),
        what="finetuning_type lora",
    ),
    Needs(
        fields=("create_new_adapter",),
        holds=lambda spec: spec.model.adapter_name_or_path is not None,
        what="adapter_name_or_path",
    ),
    Needs(fields=("asft_alpha",), holds=lambda spec: spec.loss.use_asft_loss, what="use_asft_loss"),
    Needs(fields=("eaft_alpha",), holds=lambda spec: spec.loss.use_eaft_loss, what="use_eaft_loss"),
    Needs(
        fields=("simpo_gamma",),
        holds=lambda spec: spec.tuning.stage != "dpo" or spec.plugged["dpo"].pref_loss == "simpo",
        what="pref_loss simpo",
    ),
    Needs(
        fields=(
            "swanlab_project",
            "swanlab_workspace",
            "swanlab_run_name",
            "swanlab_mode",
            "swanlab_api_key",
            "swanlab_logdir",
            "swanlab_lark_webhook_url",
            "swanlab_lark_secret",
        ),
        holds=lambda spec: spec.tracking.is_asked(SWANLAB),
        what="use_swanlab",
    ),
    Needs(
        fields=("swanlab_lark_secret",),
        holds=lambda spec: spec.tracking.swanlab_lark_webhook_url is not None,
        what="swanlab_lark_webhook_url",
    ),
    Needs(
        fields=("wandb_mode", "wandb_api_key"), holds=lambda spec: spec.tracking.is_asked(WANDB), what="report_to wandb"
    ),
    Needs(
        fields=("trackio_space_id", "trackio_bucket_id"),
        holds=lambda spec: spec.tracking.is_asked(TRACKIO),
        what="report_to trackio",
    ),
    Needs(
        fields=("trackio_bucket_id",),
        holds=lambda spec: spec.tracking.trackio_space_id is not None,
        what="trackio_space_id",
    ),
    Needs(fields=("run_name", "project"), holds=lambda spec: spec.tracking.is_on, what="report_to"),
    Needs(fields=("buffer_size",), holds=lambda spec: spec.data.streaming, what="streaming"),
    Needs(
        fields=("mix_strategy", "interleave_probs"),
        holds=lambda spec: max(len(spec.data.dataset), len(spec.data.eval_dataset)) > 1,
        what="several datasets",
    ),
    Needs(
        fields=("per_device_eval_batch_size", "eval_on_start", "eval_delay", "eval_on_each_dataset", "eval_steps"),
        holds=lambda spec: spec.validates(),
        what="val_size or eval_dataset",
    ),
    Needs(
        fields=("metric_for_best_model", "greater_is_better"),
        holds=lambda spec: spec.loop.load_best_model_at_end or spec.loop.early_stopping_steps is not None,
        what="load_best_model_at_end or early_stopping_steps",
    ),
    Needs(fields=("save_steps",), holds=lambda spec: spec.train.save_strategy == "steps", what="save_strategy steps"),
    Needs(
        fields=("save_total_limit", "save_only_model"),
        holds=lambda spec: spec.train.save_strategy != "no",
        what="save_strategy steps or epoch",
    ),
    Needs(
        fields=("logging_steps",),
        holds=lambda spec: spec.loop.logging_strategy == "steps",
        what="logging_strategy steps",
    ),
    Needs(
        fields=("adam_beta1", "adam_beta2", "adam_epsilon"),
        holds=lambda spec: ADAM in spec.train.optim,
        what="an optim of Adam's family",
    ),
    Needs(
        fields=("do_sample", "temperature", "top_p", "top_k", "max_new_tokens", "repetition_penalty"),
        holds=lambda spec: spec.tuning.stage == "ppo",
        what="stage ppo",
    ),
)
EXPORT = (
    Needs(
        fields=(
            "export_quantization_dataset", "export_quantization_nsamples", "export_quantization_maxlen",
        ),
        holds=lambda spec: formats.get(spec.export.export_format).calibrated,
        what="export_quantization_bit",
    ),
    Needs(
        fields=("export_quantization_steps",),
        holds=lambda spec: formats.get(spec.export.export_format).learned,
        what="export_format gptq or awq",
    ),
)  # fmt: skip
GENERATE = (
    Needs(
        fields=("temperature", "top_p", "top_k", "min_p", "seed"),
        holds=lambda spec: spec.sampling.drawing.do_sample,
        what="do_sample true",
    ),
)
EVALUATE = (
    Needs(
        fields=("do_sample", "max_new_tokens", "repetition_penalty", "num_beams", "length_penalty"),
        holds=lambda spec: spec.generates(),
        what="predict_with_generate",
    ),
    Needs(
        fields=("temperature", "top_p", "top_k"),
        holds=lambda spec: spec.decoding.do_sample,
        what="do_sample true",
    ),
    Needs(
        fields=("n_shot", "limit", "apply_chat_template"),
        holds=lambda spec: bool(spec.benchmarks.tasks),
        what="tasks",
    ),
)
TABLES: Mapping[type, tuple[Needs, ...]] = {
    TrainSpec: TRAIN,
    ExportSpec: EXPORT,
    GenerateSpec: GENERATE,
    EvaluateSpec: EVALUATE,
}


def remarks(spec: Any, body: Mapping[str, Any]) -> Iterator[Finding]:
    """One for each field of the body that says something and is not read. Of preferences the doctor speaks."""
    sent = {param.wire: param for param in schema.params(type(spec)) if _says_something(param, body)}
    for needs in TABLES.get(type(spec), ()):
        if not needs.holds(spec):
            for field in needs.fields:
                if field in sent:
                    yield _idle(sent.pop(field), needs.what)
    for param in sent.values():
        owner = param.path[1] if param.path[0] == "plugged" else None
        if owner is not None and owner not in (spec.tuning.stage, spec.tuning.finetuning_type, *PREFERRING):
            yield _idle(param, Text("stage {stage}", stage=owner))


def _says_something(param: Param, body: Mapping[str, Any]) -> bool:
    return any(body.get(name) not in (None, param.default) for name in param.names)


def _idle(param: Param, what: str) -> Finding:
    text = Text("{field} changes nothing without {what}.", field=param.wire, what=Text(what))
    return warning(param.wire, Origin.REFERENCE, text, Text("Leave it out, or give {what}.", what=Text(what)))
