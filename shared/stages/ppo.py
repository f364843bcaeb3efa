"""Proximal policy optimization: the model's own answers are scored by a reward model, and good ones made likelier.

What is rolled out are the prompts: each conversation without its last answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.declarations import Rates, Stage
from shared.fields import Message, shown
from shared.nearest import did_you_mean
from shared.param import param
from shared.rules import rule
from shared.tongues import Text

TYPES = ("lora", "full")
#: Why DeepSpeed is refused.
NO_ENGINE = (
    "cannot be given with stage ppo: one step draws answers token by token (ZeRO-3 would gather all weights for each "
    "token) and changes the weights several times (its engine would count each as a step of the schedule); use "
    "num_processes, with finetuning_type lora or quantization_bit to save memory"
)
SCORED_ANYWAY = "is not for stage ppo: every step draws and scores new answers; watch reward and kl"


def type_complaint(value: Any) -> Message | None:
    """LF's third type would have the server ask an address that a client chose."""
    if value == "api":
        text = (
            "'api' is not supported: a client never chooses which address the server asks; register the reward model "
            "and set the type to full, or to lora for an adapter"
        )
        return Message(text, "unsupported")
    if value in TYPES:
        return None
    near = did_you_mean(str(value), TYPES)
    text = Text("is {value}: must be one of {allowed}{near}", value=shown(value), allowed="lora, full", near=near)
    return Message(text, "invalid_choice")


@dataclass(frozen=True, kw_only=True)
class Ppo:
    reward_model: str | None = param(
        None,
        "Model of stage rm that scores the answers: a name of the catalog, a hub id, or a path under the import roots.",
        type=str,
        kind="model",
        advice="Train it with stage rm on preference pairs, with the tokenizer of the model to be trained.",
        picture="The judge: answers nothing itself, and gives every answer a mark.",
        since=2,
    )
    reward_model_type: str = param(
        "lora",
        "What reward_model is: an adapter on the model that is trained (lora: shares its weights), or a whole model.",
        choices=TYPES,
        check=type_complaint,
        advice="lora costs no second model in memory.",
        since=2,
    )
    reward_model_adapters: str | None = param(
        None,
        "With reward_model_type full: adapter of stage rm on reward_model, when that is a plain model.",
        type=str,
        kind="model",
        since=2,
    )
    reward_model_quantization_bit: int | None = param(
        None, "Load the whole reward model in this many bits.", type=int, choices=(4, 8), unit="bits", since=2
    )
    ppo_buffer_size: int = param(
        1,
        "Batches (per_device_train_batch_size x gradient_accumulation_steps) that are rolled out for one step.",
        minimum=1,
        maximum=4096,
        picture="How many piles of papers are collected before they are marked.",
        since=2,
    )
    ppo_epochs: int = param(
        4,
        "How often each step goes over the answers that it rolled out.",
        minimum=1,
        maximum=1000,
        picture="How often the same marked papers are gone through.",
        since=2,
    )
    ppo_score_norm: bool = param(
        False, "Normalise scores by their running mean and deviation.", advice="true when scores are large.", since=2
    )
    ppo_target: float = param(
        6.0,
        "Divergence from the start that the penalty's weight steers for, summed over an answer.",
        minimum=0.0,
        exclusive_minimum=True,
        maximum=1e6,
        unit="nats",
        picture="The dog's leash: how far from the start it may go.",
        since=2,
    )
    ppo_whiten_rewards: bool = param(False, "Divide the rewards of a step by their deviation.", since=2)

    @rule("reward_model_adapters")
    def adapters_are_of_a_whole_model(self) -> str | None:
        wrong = self.reward_model_adapters is not None and self.reward_model_type != "full"
        return "is for reward_model_type full; with lora name the adapter in reward_model" if wrong else None

    @rule("reward_model_quantization_bit")
    def an_adapter_is_scored_as_its_base_is_loaded(self) -> str | None:
        wrong = self.reward_model_quantization_bit is not None and self.reward_model_type != "full"
        return "is for reward_model_type full; with lora quantization_bit says it for both" if wrong else None


@rule("reward_model", code="required")
def reward_is_named(spec: Any) -> str | None:
    given = spec.plugged["ppo"].reward_model is not None
    return None if given else "is required with stage ppo: name a model that was trained with stage rm"


@rule("reward_model_type")
def adapter_scores_beside_an_adapter(spec: Any) -> str | None:
    kind, method = spec.plugged["ppo"].reward_model_type, spec.tuning.finetuning_type
    if kind != "lora" or method == "lora":
        return None
    return Text(
        "is 'lora', but finetuning_type {method} changes the weights that the adapter was trained on: set it to full, "
        "with the base in reward_model and the adapter in reward_model_adapters", method=method,
    )  # fmt: skip


@rule("packing")
def prompts_are_not_packed(spec: Any) -> str | None:
    wrong = spec.data.packing and not spec.data.neat_packing
    return "has no meaning in stage ppo, where each prompt is answered by itself: leave it out" if wrong else None


@rule("streaming")
def prompts_are_known(spec: Any) -> str | None:
    wrong = spec.data.streaming
    return "is not for stage ppo, whose prompts are few beside its answers: leave it out" if wrong else None


@rule("pissa_init")
def adapters_begin_with_nothing(spec: Any) -> str | None:
    wrong = spec.lora.pissa_init
    return (
        "changes the base, which the reward model and the reference share in stage ppo: leave it out" if wrong else None
    )


@rule("ref_model")
def reference_is_the_start(spec: Any) -> str | None:
    wrong = spec.preference.ref_model is not None
    return (
        "is not for stage ppo, whose reference is the model as it is before the training: leave it out"
        if wrong
        else None
    )


@rule("val_size")
def rewards_are_the_validation(spec: Any) -> str | None:
    return SCORED_ANYWAY if spec.data.val_size > 0 else None


@rule("eval_dataset")
def rewards_are_the_evaluation(spec: Any) -> str | None:
    return SCORED_ANYWAY if spec.data.eval_dataset else None


@rule("zero_stage")
def weights_are_whole(spec: Any) -> str | None:
    return NO_ENGINE if spec.distributed.zero_stage is not None else None


@rule("deepspeed")
def weights_are_whole_whatever_the_preset(spec: Any) -> str | None:
    return NO_ENGINE if spec.distributed.deepspeed is not None else None


@rule("do_sample")
def answers_are_drawn(spec: Any) -> str | None:
    drawing = spec.drawing
    wrong = not drawing.do_sample or drawing.temperature == 0
    return "and temperature must draw in stage ppo: the likeliest answer alone teaches nothing" if wrong else None


STAGE = Stage(
    name="ppo",
    doc="Proximal policy optimization: learn from the scores of a reward model.",
    rows="messages",
    asks=True,
    rates={
        "lora": Rates(low=1e-6, high=1e-4, paper=1e-5, lf=1e-5),
        "freeze": Rates(low=1e-7, high=1e-5, paper=1e-6, lf=1e-6),
        "full": Rates(low=1e-7, high=1e-5, paper=1e-6, lf=1e-6),
    },
    params=Ppo,
    rules=(
        reward_is_named, adapter_scores_beside_an_adapter, prompts_are_not_packed, prompts_are_known,
        adapters_begin_with_nothing, reference_is_the_start, rewards_are_the_validation, rewards_are_the_evaluation,
        weights_are_whole, weights_are_whole_whatever_the_preset, answers_are_drawn,
    ),
)  # fmt: skip
