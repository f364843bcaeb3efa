"""Stage and method: what is learned, and which weights change."""

from __future__ import annotations

from dataclasses import dataclass

from shared import methods, stages
from shared.fields import TokenCount
from shared.param import param
from shared.rules import rule


@dataclass(frozen=True, kw_only=True)
class Tuning:
    stage: str = param(
        "sft",
        "What is learned: `sft` to answer from examples, `pt` to continue texts, the others from what people prefer.",
        choices=stages.names(),
        check=stages.complaint,
        kind="stage",
        advice="95 % of jobs are sft.",
        picture="The class attended: reading much (pt), worked examples (sft), or which of two answers is better.",
    )
    finetuning_type: str = param(
        "lora",
        "Which weights change: a small adapter (lora), some layers (freeze), or all (full).",
        choices=methods.names(),
        check=methods.complaint,
        kind="method",
        advice="lora first: 7B fits one card; from 32B on it is the usual choice.",
        picture="Notes in the margin of a book (lora), some chapters written anew (freeze), or all of it (full).",
    )
    do_train: bool = param(True, "LF's switch; a training job always trains.")
    do_eval: bool = param(False, "Validate once more at the end; needs val_size or eval_dataset.")
    pure_bf16: bool = param(False, "Hold trained weights and optimizer in bfloat16, without float32 copies.")
    compute_accuracy: bool = param(
        False, "Also report how many tokens are predicted right, in training and validation."
    )
    include_num_input_tokens_seen: bool = param(
        False, "LF's switch; tokens are always counted.", source="HF", field_class=TokenCount
    )
    include_effective_tokens_per_second: bool = param(False, "LF's switch; real tokens per second are always reported.")
    plot_loss: bool = param(
        False,
        "Leave the loss curves beside the model (training_loss.png and .svg). Every job's are drawn by "
        "GET /v1/jobs/{id}/curves.svg.",
    )

    @rule("do_train", code="invalid_value")
    def training_trains(self) -> str | None:
        return None if self.do_train else "is false: a training job trains; leave it out"


@dataclass(frozen=True, kw_only=True)
class Freeze:
    trainable_layers: int = param(
        2,
        "Layers that are trained: the last n, or the first n when negative.",
        minimum=-1000,
        maximum=1000,
        deprecated=("num_layer_trainable",),
    )
    trainable_modules: list[str] = param(
        ["all"], "Modules inside those layers, or `all`.", deprecated=("name_module_trainable",)
    )
    extra_modules: list[str] = param([], "Modules outside the layers that are trained too.")
    use_llama_pro: bool = param(
        False,
        "Train only the blocks by which a model was expanded (LLaMA Pro): every n-th layer, freeze_trainable_layers of "
        "them; also with lora.",
        wire="use_llama_pro",
        since=2,
        advice="Only for a model that was expanded by such blocks.",
    )

    @rule("freeze_trainable_layers", code="out_of_range")
    def some_layer(self) -> str | None:
        return "is 0: must be 1 or more (last layers), or -1 or less (first)" if self.trainable_layers == 0 else None
