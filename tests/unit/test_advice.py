"""Every piece of advice: the paper's table by model size, where the product doubts it, and what is let through else."""

from __future__ import annotations

from typing import Any

import pytest

from shared import schema, stages
from shared.advice import footprint, shapes
from shared.advice.cards import Cards, find
from shared.advice.doctor import Finding, findings
from shared.advice.memory import base_bytes
from shared.advice.shapes import Shape
from shared.spec import ExportSpec, TrainSpec

SMALL: dict[str, Any] = {"model_name_or_path": "base", "dataset": "facts", "bf16": True}
DISTILL = shapes.read({
    "model_type": "qwen2", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8, "intermediate_size": 27648, "vocab_size": 152064, "torch_dtype": "bfloat16",
    "max_position_embeddings": 131072,
})  # fmt: skip
LLAMA_8B = shapes.read({
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "torch_dtype": "bfloat16",
    "max_position_embeddings": 8192,
})  # fmt: skip
PHI = shapes.read({
    "model_type": "phi3", "hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 32,
    "intermediate_size": 8192, "vocab_size": 32064,
})  # fmt: skip
MIXTRAL = shapes.read({
    "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "num_local_experts": 8,
})  # fmt: skip
DEEPSEEK = shapes.read({
    "model_type": "deepseek_v3", "hidden_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 16,
    "intermediate_size": 8192, "vocab_size": 32000, "n_routed_experts": 64, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "moe_intermediate_size": 1024, "num_experts_per_tok": 6,
})  # fmt: skip
LENGTHS = {"p50": 300, "p95": 1500, "p99": 3000, "length_mean": 400, "length_max": 5000, "share_cut": 0.04,
           "share_unanswered": 0.02}  # fmt: skip


def train(**body: Any) -> TrainSpec:
    named = {"model_name_or_path": body.pop("model")} if "model" in body else {}
    return schema.load(TrainSpec, {**SMALL, **body, **named})


def cards(kind: str, count: int = 1, **more: Any) -> Cards:
    return schema.load(Cards, {"kind": kind, "count": count, **more})


def said(found: list[Finding], field: str, source: str, severity: str = "") -> str:
    chosen = [f for f in found if (f.field, f.source) == (field, source) and severity in ("", f.severity)]
    return " ".join(f"{f.message} {f.advice}" for f in chosen)


@pytest.mark.parametrize(
    ("body", "known", "field", "words"),
    [
        ({}, {}, "stage", "95 % of jobs are sft"),
        ({"model": "Qwen2.5-72B"}, {}, "stage", "consider pt first, then sft"),
        ({"model": "Llama-3.1-8B"}, {}, "finetuning_type", "runs on one card"),
        ({"model": "Llama-3.1-8B", "finetuning_type": "full"}, {}, "finetuning_type", "LoRA comes first"),
        ({"model": "Yi-34B"}, {}, "finetuning_type", "LoRA is the only realistic method"),
        ({"model": "Qwen2.5-72B", "finetuning_type": "full"}, {}, "finetuning_type", "only realistic method"),
        ({"model": "Llama-3.1-8B", "lora_rank": 16}, {}, "lora_rank", "style and format, not at knowledge"),
        ({"model": "Llama-3.1-8B", "lora_rank": 32}, {}, "lora_rank", "room for knowledge"),
        ({"model": "Yi-34B", "lora_rank": 16}, {}, "lora_rank", "rank 32 and above"),
        ({"model": "Qwen2.5-72B", "lora_rank": 32}, {}, "lora_rank", "rank 64 and above is advised. Try 128 or 256"),
        ({"lora_rank": 8, "lora_alpha": 16}, {}, "lora_alpha", "2 x rank 8: sound"),
        ({"lora_alpha": 8}, {}, "lora_alpha", "2 x rank is advised"),
        ({"lora_target": "q_proj,v_proj"}, {}, "lora_target", "all is safe for most"),
        ({}, {"num_rows": 5_000}, "lora_dropout", "0.05 to 0.1"),
        ({"lora_dropout": 0.1}, {"num_rows": 50_000}, "lora_dropout", "dropout is not needed"),
        ({"template": "qwen"}, {}, "template", "ruins the model silently"),
        ({}, {"lengths": LENGTHS}, "cutoff_len", "From the P95 to the P99 of the data: 1536 to 3008"),
        ({"model": "Llama-2-7b", "cutoff_len": 8192}, {"cards": cards("RTX-4090")}, "cutoff_len",
         "7B on cards of 24 GB"),
        ({"model": "Yi-34B", "cutoff_len": 8192}, {}, "cutoff_len", "From 34B on 2048 to 4096"),
        ({"packing": True}, {}, "packing", "strongly advised where there are many short texts"),
        ({"learning_rate": 5e-5, "lr_scheduler_type": "cosine"}, {}, "learning_rate", "golden trio"),
        ({"finetuning_type": "full", "learning_rate": 1e-5}, {}, "learning_rate", "ten times lower than LoRA: 5e-6"),
        ({"lr_scheduler_type": "linear"}, {}, "lr_scheduler_type", "cosine is advised for production"),
        ({}, {"num_rows": 1600}, "warmup_steps", "5 to 10 % of all steps: 30 to 60 of about 600"),
        ({"model": "Llama-3.1-8B", "disable_gradient_checkpointing": True}, {}, "disable_gradient_checkpointing",
         "Never disable it when memory is tight"),
        ({"model": "Llama-3.1-8B"}, {}, "quantization_bit", "7B and above on cards of 16 GB or less"),
        ({}, {}, "val_size", "over-fitting cannot be judged"),
        ({}, {}, "report_to", "strongly recommended for every experiment"),
    ],
)  # fmt: skip
def test_the_papers_table_by_model_size(body: dict[str, Any], known: dict[str, Any], field: str, words: str) -> None:
    assert words in said(findings(train(**body), **known), field, "paper")


WORKED: dict[str, Any] = {
    "model": "DeepSeek-R1-Distill-Qwen-32B", "num_processes": 8, "deepspeed": "ds_z3_config.json", "cutoff_len": 1024,
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "lr_scheduler_type": "cosine",
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "known", "field", "source", "words"),
    [
        (WORKED, {"shape": DISTILL}, "finetuning_type", "estimate", "31 GiB in pure bf16, 61 to 69 GiB in mixed"),
        (WORKED, {"shape": DISTILL, "cards": cards("A100-40GB", 8)}, "deepspeed", "estimate", "Stage 3 is needed on"),
        (WORKED, {"shape": DISTILL, "cards": cards("A100-80GB", 8)}, "deepspeed", "estimate", "Stage 3 is not needed"),
        (WORKED, {"shape": DISTILL}, "deepspeed", "estimate", "not needed on 80 GB cards, but on 40 GB ones it is"),
        (WORKED, {"shape": DISTILL, "cards": cards("A100-40GB", 8)}, "per_device_train_batch_size", "estimate",
         "8 x 2 gives the same batch with 1/8 of the gathers"),
        (WORKED, {"shape": DISTILL}, "cutoff_len", "estimate", "Four times as long takes"),
        (WORKED, {}, "learning_rate", "reference", "in this stage use 1e-4"),
        (WORKED, {}, "lora_rank", "reference", "grow with the model already"),
        ({"lora_rank": 64}, {}, "lora_rank", "reference", "above 32, the largest that a deployment serves"),
        ({"template": "llama2"}, {}, "template", "reference", "the model's own decides"),
        ({"packing": True}, {}, "packing", "reference", "Set neat_packing to true"),
        ({"quantization_bit": 4}, {}, "quantization_bit", "reference", "merges inexactly"),
        ({"compute_accuracy": True, "val_size": 0.1}, {}, "compute_accuracy", "reference", "accuracy of tokens"),
        ({"lora_target": "q_proj,v_proj"}, {"shape": PHI}, "lora_target", "reference",
         "It has down_proj, gate_up_proj"),
    ],
)  # fmt: skip
def test_where_the_paper_is_doubted_a_second_finding_says_so(
    body: dict[str, Any], known: dict[str, Any], field: str, source: str, words: str
) -> None:
    assert words in said(findings(train(**body), **known), field, source)


@pytest.mark.parametrize(
    ("body", "words"),
    [({"model": "m"}, "need not be merged"), ({"model": "m", "export_quantization_bit": 4}, "not always faster")],
)
def test_what_the_paper_says_of_deployment_is_doubted_too(body: dict[str, Any], words: str) -> None:
    assert words in said(findings(schema.load(ExportSpec, body)), "export_format", "reference")


def test_eight_small_steps_are_proposed_only_where_they_fit() -> None:
    tight = findings(train(**WORKED), shape=DISTILL, cards=cards("RTX-4090", 8))
    assert "gives the same batch" not in said(tight, "per_device_train_batch_size", "estimate") or "2 x 8" in said(
        tight, "per_device_train_batch_size", "estimate"
    )


@pytest.mark.parametrize("stage", [name for name in ("dpo", "kto") if name in stages.TABLE])
def test_the_golden_rate_is_that_of_sft(stage: str) -> None:
    found = findings(train(stage=stage, lr_scheduler_type="cosine"))
    assert "The golden rate is that of sft" in said(found, "learning_rate", "reference")


EIGHT: dict[str, Any] = {"model": "Llama-3.1-8B"}


@pytest.mark.parametrize(
    ("body", "known", "field"),
    [
        (EIGHT, {"shape": LLAMA_8B, "cards": cards("V100-32GB")}, "bf16"),
        (EIGHT | {"bf16": False, "pure_bf16": True}, {"shape": LLAMA_8B, "cards": cards("T4")}, "pure_bf16"),
        (EIGHT, {"shape": LLAMA_8B, "cards": cards("A100-80GB", 8)}, "num_processes"),
        (EIGHT | {"num_processes": 16}, {"shape": LLAMA_8B, "cards": cards("A100-80GB", 8)}, "num_processes"),
        (EIGHT | {"flash_attn": "disabled"}, {"shape": LLAMA_8B}, "flash_attn"),
        (EIGHT | {"cutoff_len": 16384}, {"shape": LLAMA_8B}, "cutoff_len"),
        (EIGHT | {"lora_target": "c_attn"}, {"shape": LLAMA_8B}, "lora_target"),
        ({"quantization_bit": 4}, {"shape": MIXTRAL}, "quantization_bit"),
        ({}, {"shape": DEEPSEEK}, "lora_target"),
        (EIGHT | {"val_size": 0.1, "per_device_train_batch_size": 1, "cutoff_len": 4096}, {"shape": LLAMA_8B},
         "per_device_eval_batch_size"),
        (EIGHT | {"finetuning_type": "full", "save_steps": 100, "zero_stage": 3, "num_processes": 8},
         {"shape": LLAMA_8B, "num_rows": 100_000}, "save_total_limit"),
        (EIGHT | {"finetuning_type": "full", "learning_rate": 5e-5}, {}, "learning_rate"),
        ({}, {"num_rows": 100}, "gradient_accumulation_steps"),
        ({}, {"lengths": LENGTHS}, "cutoff_len"),
        ({"lr_scheduler_type": "constant", "warmup_ratio": 0.1}, {}, "lr_scheduler_type"),
        ({"max_steps": 60, "val_size": 0.1, "logging_steps": 5, "eval_steps": 100}, {}, "eval_steps"),
        ({"val_size": 5}, {"num_rows": 1000}, "val_size"),
        ({"val_size": 0.5}, {"num_rows": 1000}, "val_size"),
        ({"fp16": True, "bf16": False, "finetuning_type": "full"}, {"shape": LLAMA_8B}, "fp16"),
        ({"bf16": False, "flash_attn": "fa2"}, {}, "flash_attn"),
        ({"lora_dropout": 0.5}, {}, "lora_dropout"),
        ({"max_grad_norm": 0.0}, {}, "max_grad_norm"),
        ({"deepspeed": {"train_batch_size": 7, "zero_optimization": {"stage": 2}}}, {}, "deepspeed"),
        ({"ray_num_workers": 4}, {}, "use_ray"),
        ({"cutoff_len": 1024}, {"lengths": {"p50": 90, "p95": 700, "p99": 1500}}, "cutoff_len"),
    ],
)  # fmt: skip
def test_what_others_let_through_is_a_warning(body: dict[str, Any], known: dict[str, Any], field: str) -> None:
    # The same without what is doubted has no such warning: each of these can fail.
    assert field in {finding.field for finding in findings(train(**body), **known) if finding.severity == "warning"}


@pytest.mark.parametrize(
    ("body", "known", "field", "words"),
    [
        ({"max_steps": 60, "num_train_epochs": 1.0}, {}, "num_train_epochs", "max_steps 60 ends the training"),
        ({"max_samples": 100}, {}, "max_samples", "for trying out"),
        ({"additional_target": "embed_tokens"}, {}, "additional_target", "Export it merged before you deploy it"),
        ({"neat_packing": True, "group_by_length": True}, {}, "group_by_length", "changes nothing"),
        ({"quantization_bit": 8}, {}, "quantization_bit", "more slowly than 4"),
        ({"quantization_bit": 4}, {}, "upcast_layernorm", "more exact in float32"),
        ({"use_rslora": True, "lora_rank": 64}, {}, "use_rslora", "16 times, not 2"),
        ({"save_only_model": True}, {}, "save_only_model", "cannot be gone on from exactly"),
        ({"max_steps": 60}, {}, "save_steps", "an interrupted job begins again"),
        ({}, {"shape": MIXTRAL}, "lora_target", "get no adapter"),
    ],
)  # fmt: skip
def test_what_is_only_worth_knowing_is_said(
    body: dict[str, Any], known: dict[str, Any], field: str, words: str
) -> None:
    assert words in said(findings(train(**body), **known), field, "reference") + said(
        findings(train(**body), **known), field, "estimate"
    )


def test_a_careful_spec_on_cards_that_suit_it_has_no_warnings() -> None:
    careful = train(
        model="Llama-3.1-8B", warmup_ratio=0.05, val_size=0.1, lr_scheduler_type="cosine", logging_steps=10,
        save_total_limit=3, per_device_eval_batch_size=1, per_device_train_batch_size=1, gradient_accumulation_steps=8,
    )  # fmt: skip
    found = findings(careful, num_rows=50_000, shape=LLAMA_8B, cards=cards("A100-80GB"))
    assert {finding.field for finding in found if finding.severity == "warning"} == set()


@pytest.mark.parametrize(
    ("shape", "kind", "fits"), [(LLAMA_8B, "A100-80GB", True), (LLAMA_8B, "T4", False), (DISTILL, "A100-80GB", True)]
)
def test_the_verdict_is_said_with_the_parts(shape: Shape, kind: str, fits: bool) -> None:
    found = findings(train(per_device_train_batch_size=1), shape=shape, cards=cards(kind))
    text = " ".join(
        f"{f.message} {f.advice}" for f in found if f.source == "estimate" and "A device needs" in f.message
    )
    assert "weights" in text and ("It fits." in text) == fits
    assert fits or "Nearest change that fits" in text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"), ("NVIDIA H100 80GB HBM3", "H100-80GB"), ("Tesla T4", "T4-16GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090-24GB"), ("h200", "H200"), ("a100_40gb", "A100-40GB"), ("A100", None),
        ("Tesla V100-SXM2-32GB", "V100-32GB"), ("GTX 1080", None),
    ],
)  # fmt: skip
def test_cards_are_known_as_their_driver_names_them(name: str, kind: str | None) -> None:
    assert find(name) == kind


def test_reference_and_reward_models_count_where_they_are_held() -> None:
    asked = {"stage": "ppo", "reward_model": "judge", "model": "Llama-3.1-8B", "packing": False}
    whole = 2 * LLAMA_8B.num_weights
    held = {}
    for method, kind in (("lora", "lora"), ("lora", "full"), ("full", "full")):
        spec = train(**asked, finetuning_type=method, reward_model_type=kind)
        held[method, kind] = footprint.training(spec, LLAMA_8B, num_devices=1).other_bytes / whole
    # The reference is held as what is trained is, in float32.
    assert held == {("lora", "lora"): 0, ("lora", "full"): 1, ("full", "full"): 3}


@pytest.mark.parametrize(
    ("body", "weight", "optimizer", "element"),
    [
        ({"bf16": True}, 4, 8, 2),
        ({"bf16": False, "pure_bf16": True}, 2, 4, 2),
        ({"bf16": True, "zero_stage": 2}, 2, 12, 2),
        ({"bf16": True, "optim": "adamw_8bit"}, 4, 2, 2),
        ({"bf16": True, "optim": "sgd"}, 4, 0, 2),
        ({"bf16": True, "optim": "adafactor"}, 4, 0.05, 2),
        ({"bf16": True, "optim": "lion_8bit"}, 4, 1, 2),
        ({"bf16": True, "optim": "paged_ademamix_32bit"}, 4, 12, 2),
        ({"bf16": False, "finetuning_type": "full"}, 4, 8, 4),
    ],
)
def test_formats_are_those_of_the_trainer(body: dict[str, Any], weight: float, optimizer: float, element: int) -> None:
    made = footprint.training(train(**body), LLAMA_8B, num_devices=2)
    assert (made.trained.weight, made.trained.optimizer, made.element) == (weight, optimizer, element)


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({"lora_rank": 8}, 20_971_520),
        ({"lora_rank": 8, "additional_target": "embed_tokens,lm_head"}, 20_971_520 + 2 * 128256 * 4096),
        ({"finetuning_type": "full"}, 8_030_261_248),
        ({"finetuning_type": "freeze", "freeze_trainable_layers": 2}, 436_224_000),
    ],
)
def test_what_is_trained_is_counted(body: dict[str, Any], count: int) -> None:
    assert footprint.count_trained(train(**body), LLAMA_8B) == count


def test_a_quantized_base_keeps_its_embeddings_whole() -> None:
    made = footprint.training(train(quantization_bit=4), LLAMA_8B, num_devices=1)
    assert base_bytes(made) == pytest.approx(0.516 * LLAMA_8B.num_linear + 2 * 2 * 128256 * 4096, rel=1e-3)


@pytest.mark.parametrize(
    ("body", "rows", "copies"),
    [
        ({"stage": "dpo"}, 2, 0),
        ({"stage": "dpo", "finetuning_type": "full"}, 2, 2),
        ({"stage": "dpo", "finetuning_type": "full", "bf16": False, "pure_bf16": True}, 2, 1),
        ({"stage": "dpo", "ref_model": "other", "ref_model_quantization_bit": 8}, 2, 1.03 / 2),
        ({"stage": "dpo", "finetuning_type": "full", "pref_loss": "simpo"}, 2, 0),
        ({"stage": "dpo", "ref_model": "other"}, 2, 2),
        ({"stage": "kto", "finetuning_type": "full"}, 2, 2),
        ({"stage": "rm"}, 2, 0),
        ({"stage": "sft"}, 1, 0),
    ],
)
def test_preferences_take_two_sequences_and_where_nothing_can_be_switched_off_a_reference(
    body: dict[str, Any], rows: int, copies: float
) -> None:
    made = footprint.training(train(per_device_train_batch_size=1, **body), LLAMA_8B, num_devices=1)
    assert (made.rows, made.other_bytes) == (rows, pytest.approx(copies * 2 * LLAMA_8B.num_weights))
