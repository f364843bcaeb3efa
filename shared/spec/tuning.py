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
        "What kind of training: `sft` learns to answer from examples.",
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
    compute_accuracy: bool = param(False, "Also report token accuracy when validating (needs the logits).")
    include_num_input_tokens_seen: bool = param(
        False, "LF's switch; tokens are always counted.", source="HF", field_class=TokenCount
    )
    include_effective_tokens_per_second: bool = param(False, "LF's switch; real tokens per second are always reported.")
    plot_loss: bool = param(False, "LF's switch; losses are always recorded as events and drawn by the console.")

    @rule("do_train", code="invalid_value")
    def training_trains(self) -> str | None:
        return None if self.do_train else "is false: a training job trains; leave it out"


@dataclass(frozen=True, kw_only=True)
class Lora:
    rank: int = param(
        8,
        "Capacity of the adapter.",
        minimum=1,
        maximum=1024,
        aliases=("lora_r",),
        advice="7B: 8 to 16 for style, 32 to 64 for knowledge; 34B: from 32; 70B and above: from 64.",
        picture="The thickness of the notebook beside the textbook: a thin one holds a style, a thick one knowledge.",
    )
    alpha: int | None = param(
        None,
        "Scale of the adapter. Left out: 2 x rank.",
        type=int,
        minimum=1,
        maximum=4096,
        advice="2 x rank.",
        picture="How loudly the notebook speaks beside the textbook.",
    )
    dropout: float = param(
        0.0,
        "Share of the adapter's inputs dropped while training.",
        minimum=0.0,
        maximum=1.0,
        exclusive_maximum=True,
        advice="0.05 to 0.1 for under 10,000 samples or when over-fitting, else 0.",
        picture="Some lines of the notebook are covered at random, so that it is understood and not learned by heart.",
    )
    target: list[str] = param(
        ["all"],
        "Modules that get an adapter: `all` linear layers, or names.",
        advice="all; names differ where an architecture fuses q, k and v.",
        picture="Which chapters of the textbook get notes.",
    )
    additional_target: list[str] = param(
        [], "Modules trained in full and saved with the adapter, e.g. embed_tokens,lm_head.", wire="additional_target"
    )
    use_rslora: bool = param(False, "Rank-stabilised scale: alpha / sqrt(rank).", wire="use_rslora")
    use_dora: bool = param(False, "Weight-decomposed adapters (DoRA): a little better, slower.", wire="use_dora")
    create_new_adapter: bool = param(
        False, "Merge the given adapter into the base and start a new one.", wire="create_new_adapter"
    )

    @rule("lora_target", code="invalid_value")
    def some_target(self) -> str | None:
        return "is empty: `all`, or names of modules" if self.target == [] else None


@dataclass(frozen=True, kw_only=True)
class Freeze:
    trainable_layers: int = param(
        2, "Layers that are trained: the last n, or the first n when negative.", minimum=-1000, maximum=1000
    )
    trainable_modules: list[str] = param(["all"], "Modules inside those layers, or `all`.")
    extra_modules: list[str] = param([], "Modules outside the layers that are trained too.")

    @rule("freeze_trainable_layers", code="out_of_range")
    def some_layer(self) -> str | None:
        return "is 0: must be 1 or more (last layers), or -1 or less (first)" if self.trainable_layers == 0 else None
