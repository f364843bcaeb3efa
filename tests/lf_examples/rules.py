"""What LF's parser enforces, changes by itself or lets through, rule by rule, and how each is answered here.

The numbers are those of a list of 62 rules of LF 0.9.5. A rule may need several answers; one that can mean nothing here
says why. `tests/e2e/test_lf_rules.py` proves every answer by posting it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PAIRS = {"stage": "dpo", "dataset": "dpo_en_demo"}
LABELLED = {"stage": "kto", "dataset": "kto_en_demo"}
TEXTS = {"stage": "pt", "dataset": "c4_demo"}
SCORED = {"stage": "rm", "dataset": "dpo_en_demo"}
REWARDED = {"stage": "ppo", "reward_model": "scorer"}
SCORED_BY_A_WHOLE = {"stage": "ppo", "reward_model": "whole-scorer", "reward_model_type": "full"}
EXPORT = {"kind": "export", "dataset": None}


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The request is refused under this field."""

    field: str
    part: str
    body: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Told:
    """The request is accepted, and a finding under this field says it."""

    field: str
    part: str
    body: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Holds:
    """The request is accepted, and the spec holds this value."""

    field: str
    value: Any
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NotHere:
    """The rule can mean nothing here."""

    reason: str


#: How many rules the list has.
NUM_RULES = 62
Answer = Refused | Told | Holds | NotHere


def refused(where: str, part: str, /, **body: Any) -> Refused:
    return Refused(field=where, part=part, body=body)


def told(where: str, part: str, /, **body: Any) -> Told:
    return Told(field=where, part=part, body=body)


def holds(where: str, value: Any, /, **body: Any) -> Holds:
    return Holds(field=where, value=value, body=body)


def not_here(reason: str) -> NotHere:
    return NotHere(reason=reason)


RULES: Mapping[int, tuple[Answer, ...]] = {
    # Input
    1: (refused("lora_rnk", "did you mean 'lora_rank'", lora_rnk=8),),
    2: (holds("dataset", ["identity"]),),
    3: (refused("model_name_or_path", "is null", model_name_or_path=None),),
    4: (refused("image_min_pixels", "images", image_min_pixels=9, image_max_pixels=4),),
    5: (
        holds("export_format", "w4a16", **EXPORT, export_quantization_bit=4, export_quantization_dataset="c4_demo"),
        holds("export_format", "w8a8", **EXPORT, export_quantization_bit=8),
        told("export_quantization_dataset", "rounded to nearest", **EXPORT, export_quantization_bit=4),
    ),
    6: (
        told("init_special_tokens", "needs descriptions", init_special_tokens="desc_init", add_special_tokens="<|a|>"),
    ),
    7: (
        holds("dataset", ["identity", "math"], dataset="identity, math"),
        holds("lora_target", ["q_proj", "v_proj"], lora_target="q_proj,v_proj"),
        holds("additional_target", ["embed_tokens", "lm_head"], additional_target="embed_tokens,lm_head"),
        holds("freeze_trainable_modules", ["mlp", "self_attn"], freeze_trainable_modules="mlp,self_attn"),
        holds("add_tokens", ["<a>", "<b>"], add_tokens="<a>,<b>"),
        holds("interleave_probs", [0.7, 0.3], dataset="identity,math", mix_strategy="interleave_under",
              interleave_probs="0.7,0.3"),
    ),
    # Data
    8: (refused("dataset", "is empty", dataset=[], val_size=0.1),),
    9: (refused("val_size", "eval_dataset", val_size=0.1, eval_dataset="math"),),
    10: (refused("interleave_probs", "mix_strategy", dataset="identity,math", interleave_probs="0.5,0.5"),),
    11: (
        refused("interleave_probs", "2", dataset="identity,math,med", mix_strategy="interleave_under",
                interleave_probs="0.5,0.5"),
    ),
    12: (refused("val_size", "stream", streaming=True, max_steps=10, val_size=0.1),),
    13: (refused("streaming", "max_samples", streaming=True, max_steps=10, max_samples=5),),
    14: (refused("streaming", "max_steps", streaming=True),),
    15: (told("tokenized_path", "tokenized", streaming=True, max_steps=10, tokenized_path="saves/x"),),
    16: (refused("mask_history", "train_on_prompt", mask_history=True, train_on_prompt=True),),
    17: (holds("packing", True, neat_packing=True),),
    18: (not_here("a packed sequence holds cutoff_len tokens"),),
    19: (holds("packing", True, **TEXTS), holds("packing", False)),
    20: (
        refused("template", "did you mean", template="qwen33"),
        refused("train_on_prompt", "chatglm3", template="chatglm3", train_on_prompt=True),
    ),
    21: (
        refused("dataset", "no dataset", dataset="nowhere"),
        not_here("files are looked at when they are uploaded: a wrong extension or kind is refused there"),
    ),
    22: (
        refused("dataset", "preference pairs", dataset="dpo_en_demo"),
        refused("dataset", "pairs", stage="dpo", dataset="identity"),
        refused("dataset", "pairs", stage="rm", dataset="identity"),
    ),
    23: (not_here("an upload with broken rows is refused, each with its line; nothing is skipped in silence"),),
    24: (refused("image_max_pixels", "images", image_max_pixels=4),),
    # Fine-tuning
    25: (
        refused("lora_alpha", "at least 1", lora_alpha=0),
        refused("lora_rank", "at least 1", lora_rank=0),
        refused("lora_dropout", "below 1", lora_dropout=1.0),
        refused("learning_rate", "above 0", learning_rate=0),
        refused("per_device_train_batch_size", "at least 1", per_device_train_batch_size=0),
        holds("lora_alpha", 48, lora_rank=24),
    ),
    26: (
        refused("ref_model_quantization_bit", "4, 8", **PAIRS, ref_model="tiny", ref_model_quantization_bit=3),
        refused("reward_model_quantization_bit", "4, 8", **SCORED_BY_A_WHOLE, reward_model_quantization_bit=3),
    ),
    27: (refused("reward_model", "is required with stage ppo", stage="ppo"),),
    28: (refused("reward_model_type", "lora", **REWARDED, reward_model_type="lora", finetuning_type="full"),),
    29: (refused("dpo_label_smoothing", "sigmoid", **PAIRS, pref_loss="hinge", dpo_label_smoothing=0.1),),
    30: (refused("use_llama_pro", "freeze or lora", use_llama_pro=True, finetuning_type="full"),),
    31: (refused("use_galore", "GaLore", use_galore=True), refused("use_badam", "BAdam", use_badam=True)),
    32: (refused("use_apollo", "APOLLO", use_galore=True, use_apollo=True, finetuning_type="full"),),
    33: (
        refused("pissa_init", "compares", **LABELLED, pissa_init=True),
        refused("pissa_init", "compares", **PAIRS, pissa_init=True),
        refused("pissa_init", "the reference share", **REWARDED, pissa_init=True),
    ),
    34: (
        refused("loraplus_lr_ratio", "LoRA", loraplus_lr_ratio=16.0, finetuning_type="full"),
        refused("use_rslora", "LoRA", use_rslora=True, finetuning_type="full"),
        refused("use_dora", "LoRA", use_dora=True, finetuning_type="freeze"),
        refused("pissa_init", "LoRA", pissa_init=True, finetuning_type="full"),
    ),
    35: (refused("hyper_parallel_cp_size", "Megatron", hyper_parallel_cp_size=0),),
    # While training
    36: (
        refused("predict_with_generate", "no rows to answer", predict_with_generate=True, **TEXTS),
        refused("then[0].predict_with_generate", "stage pt", **TEXTS,
                eval_dataset="c4_demo", do_predict=True,
                do_train=True),
        refused("neat_packing", "stage sft", **PAIRS, neat_packing=True),
        refused("train_on_prompt", "stage sft", **PAIRS, train_on_prompt=True),
        refused("mask_history", "stage sft", **SCORED, mask_history=True),
        refused("packing", "compares", **PAIRS, packing=True),
        refused("packing", "stage ppo", **REWARDED, packing=True),
    ),
    37: (holds("predict_with_generate", True, do_predict=True),),
    38: (
        refused("load_best_model_at_end", "stage rm", **SCORED, val_size=0.1, load_best_model_at_end=True),
        refused("load_best_model_at_end", "stage ppo", **REWARDED, load_best_model_at_end=True),
    ),
    39: (
        refused("do_train", "a training job trains", **REWARDED, do_train=False),
        refused("shift_attn", "LongLoRA", **REWARDED, shift_attn=True),
        holds("report_to", ["mlflow"], **REWARDED, report_to="mlflow"),
    ),
    40: (holds("num_processes", 2, num_processes=2), not_here("the worker starts one process a device by torchrun")),
    41: (not_here("the worker starts DeepSpeed by torchrun itself"),),
    42: (refused("dataset", "is empty", dataset=[]),),
    43: (
        refused("do_eval", "nothing to validate", do_eval=True),
        refused("eval_strategy", "nothing to validate", eval_strategy="steps"),
        refused("do_predict", "no rows to answer", do_train=True, do_predict=True),
        holds("eval_dataset", ["identity"], do_predict=True),
    ),
    44: (not_here("the evaluation that follows a training is one of its own and knows no ZeRO"),),
    45: (refused("quantization_device_map", "device", quantization_bit=4, quantization_device_map="auto"),),
    46: (
        refused("pissa_init", "ZeRO-3", pissa_init=True, zero_stage=3),
        refused("pure_bf16", "ZeRO-3", pure_bf16=True, zero_stage=3),
        refused("use_unsloth", "Unsloth", use_unsloth=True, zero_stage=3),
        refused("use_kt", "KTransformers", use_kt=True, zero_stage=3),
        holds("pure_bf16", True, pure_bf16=True),
    ),
    47: (
        refused("galore_layerwise", "GaLore", use_galore=True, galore_layerwise=True),
        refused("use_badam", "BAdam", use_badam=True, badam_mode="ratio"),
    ),
    48: (
        refused("fp8", "8-bit", fp8=True, quantization_bit=4),
        refused("fp8_enable_fsdp_float8_all_gather", "8-bit", fp8_enable_fsdp_float8_all_gather=True),
    ),
    49: (
        refused("infer_backend", "vLLM", infer_backend="sglang"),
        told("infer_backend", "vLLM", infer_backend="vllm"),
    ),
    50: (refused("use_megatron_bridge", "Megatron", use_megatron_bridge=True),),
    51: (
        told("additional_target", "new", resize_vocab=True, add_tokens="<a>"),
        told("bf16", "float32"),
        told("quantization_bit", "merges inexactly", quantization_bit=4),
        told("ref_model", "as its reference", **PAIRS, val_size=0.1, finetuning_type="full"),
    ),
    52: (not_here("the trainer sets labels, columns and unused parameters by stage and method"),),
    53: (
        refused("resume_from_checkpoint", "no such checkpoint", resume_from_checkpoint="saves/checkpoint-5"),
        holds("output_dir", "saves/again", output_dir="saves/again"),
        not_here("every attempt writes to a folder of its own and resumes from its own job's checkpoints"),
    ),
    54: (
        refused("project", "null", report_to="trackio", project=None),
        holds("project", "huggingface", report_to="trackio"),
    ),
    # Loading
    55: (
        refused("adapter_name_or_path", "full", adapter_name_or_path="ft:saves/tiny/lora/sft", finetuning_type="full"),
    ),
    56: (refused("quantization_bit", "lora", quantization_bit=4, finetuning_type="freeze"),),
    57: (
        refused("pissa_init", "quantiz", pissa_init=True, quantization_bit=4),
        refused("resize_vocab", "quantiz", resize_vocab=True, add_tokens="<a>", quantization_bit=4),
        refused("create_new_adapter", "quantized", create_new_adapter=True, quantization_bit=4,
                adapter_name_or_path="org/adapter"),
        refused("adapter_name_or_path", "several", adapter_name_or_path="a,b", quantization_bit=4),
    ),
    58: (
        refused("quantization_bit", "4, 8", quantization_bit=3),
        refused("quantization_method", "use bnb", quantization_method="hqq", quantization_bit=4),
        refused("export_quantization_bit", "2, 3, 4, 5, 6, 8", **EXPORT, export_quantization_bit=7),
        holds("export_format", "gguf", **EXPORT, export_quantization_bit=3),
        refused("quantization_bit", "ZeRO-3", quantization_bit=8, zero_stage=3),
        refused("model_name_or_path", "gptq", model_name_or_path="org/model-GPTQ", use_dora=True),
    ),
    59: (
        refused("galore_layerwise", "GaLore", galore_layerwise=True, gradient_accumulation_steps=8),
        not_here("names of layers and modules are those of the model: the training says which it has, before its first "
                 "step; every package is part of the trainer"),
    ),
    # Serving and export
    60: (not_here("a deployment has neither stage nor quantization_bit: they are refused as fields of a training"),),
    61: (
        holds("export_format", "merged", **EXPORT),
        holds("export_format", "w4a16", **EXPORT, adapter_name_or_path="ft:saves/tiny/lora/sft",
              export_quantization_bit=4, export_quantization_dataset="c4_demo"),
        refused("model_name_or_path", "quantized already", **EXPORT, model_name_or_path="small",
                adapter_name_or_path="ft:saves/tiny/lora/sft"),
    ),
    62: (
        holds("tasks", ["mmlu"], task="mmlu_test", dataset=None),
        not_here("results are kept on the model: `save_dir` is a label"),
    ),
}  # fmt: skip
