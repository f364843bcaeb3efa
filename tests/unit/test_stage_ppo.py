"""What stage ppo takes and refuses, whatever the catalog holds."""

from __future__ import annotations

from typing import Any

import pytest

from shared import schema
from shared.errors import InvalidSpec
from shared.spec import GenerateSpec, TrainSpec

GOOD: dict[str, Any] = {"model_name_or_path": "base", "dataset": "rows", "stage": "ppo", "reward_model": "scores"}


def load(**body: Any) -> TrainSpec:
    return schema.load(TrainSpec, {**GOOD, **body})


def complaints(**body: Any) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as caught:
        load(**body)
    return {made.field: made.message for made in caught.value.complaints}


def test_a_spec_of_lf_is_taken_with_its_defaults() -> None:
    spec = load(ppo_epochs=2, ppo_buffer_size=4, top_k=0, top_p=0.9, max_new_tokens=512)
    ppo = spec.plugged["ppo"]
    assert (ppo.ppo_epochs, ppo.ppo_buffer_size, ppo.ppo_target, ppo.reward_model_type) == (2, 4, 6.0, "lora")
    assert not ppo.ppo_score_norm and not ppo.ppo_whiten_rewards
    assert (spec.drawing.top_k, spec.drawing.top_p, spec.drawing.temperature) == (0, 0.9, 0.95)
    assert schema.from_stored(TrainSpec, schema.to_wire(spec)) == spec


@pytest.mark.parametrize(
    ("body", "field", "part"),
    [
        ({"reward_model": None}, "reward_model", "is required with stage ppo"),
        ({"reward_model_type": "api", "reward_model": "http://x/score"}, "reward_model_type", "never chooses"),
        ({"reward_model_type": "oft"}, "reward_model_type", "one of lora, full"),
        ({"finetuning_type": "full"}, "reward_model_type", "reward_model_adapters"),
        ({"finetuning_type": "freeze"}, "reward_model_type", "set it to full"),
        ({"reward_model_adapters": "a"}, "reward_model_adapters", "name the adapter in reward_model"),
        ({"reward_model_quantization_bit": 4}, "reward_model_quantization_bit", "reward_model_type full"),
        ({"reward_model_type": "full", "reward_model_quantization_bit": 3}, "reward_model_quantization_bit", "4, 8"),
        ({"packing": True}, "packing", "stage ppo"),
        ({"neat_packing": True}, "neat_packing", "ppo"),
        ({"train_on_prompt": True}, "train_on_prompt", "ppo"),
        ({"mask_history": True}, "mask_history", "ppo"),
        ({"pissa_init": True}, "pissa_init", "stage ppo"),
        ({"streaming": True, "max_steps": 3}, "streaming", "stage ppo"),
        ({"ref_model": "other"}, "ref_model", "before the training"),
        ({"val_size": 0.1}, "val_size", "watch reward and kl"),
        ({"eval_dataset": "rows"}, "eval_dataset", "watch reward and kl"),
        ({"zero_stage": 3}, "zero_stage", "ZeRO-3 would gather"),
        ({"deepspeed": "ds_z2_config.json"}, "deepspeed", "num_processes"),
        ({"do_sample": False}, "do_sample", "must draw"),
        ({"temperature": 0}, "do_sample", "must draw"),
        ({"ppo_target": 0}, "ppo_target", "above 0"),
        ({"ppo_epochs": 0}, "ppo_epochs", "at least 1"),
        ({"ppo_buffer_size": "2"}, "ppo_buffer_size", "whole number"),
        ({"max_new_tokens": 0}, "max_new_tokens", "at least 1"),
    ],
)
def test_what_cannot_be_is_refused_under_its_field(body: dict[str, Any], field: str, part: str) -> None:
    assert part in complaints(**body)[field]


def test_fields_of_drawing_are_taken_by_every_stage() -> None:
    """LF's files carry them along."""
    spec = schema.load(TrainSpec, {**GOOD, "stage": "sft", "max_new_tokens": 128, "top_p": 0.7, "temperature": 0})
    assert spec.drawing.max_new_tokens == 128


def test_drawing_is_one_group_in_training_and_generation() -> None:
    spec = schema.load(GenerateSpec, {"model": "m", "dataset": "d", "max_tokens": 5, "seed": 3})
    assert (spec.sampling.drawing.max_new_tokens, spec.sampling.seed) == (5, 3)
