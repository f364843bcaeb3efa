"""What a spec becomes: LF's files as they are, defaults that depend on others, rules between fields, DeepSpeed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared import deepspeed, formats, methods, request, schema, stages
from shared.declarations import Stage
from shared.errors import InvalidSpec
from shared.param import param, plugged
from shared.rules import rule
from shared.spec import SPECS, ExportSpec, TrainSpec
from shared.unsupported import UNSUPPORTED, WITHOUT_EFFECT
from tests.lf_examples import arguments

FILES = Path(__file__).parent / "specs"
SMALL = {"model_name_or_path": "base", "dataset": "facts"}


def read(name: str) -> Any:
    return request.load(request.parse_yaml((FILES / name).read_text()))[1]


def complaint(body: dict[str, Any], spec: type = TrainSpec) -> str:
    with pytest.raises(InvalidSpec) as caught:
        schema.load(spec, body)
    (only,) = caught.value.complaints
    return only.field


def test_an_lf_file_posts_as_it_is() -> None:
    spec = read("lora_sft.yaml")
    assert spec.data.dataset == ["facts", "small_talk"]
    assert spec.data.template == "qwen3_nothink"
    assert (spec.train.learning_rate, spec.train.warmup_ratio, spec.train.bf16) == (1e-4, 0.1, True)
    assert spec.output.output_dir == "saves/ours/lora/sft"
    assert spec.model.trust_remote_code is True


@pytest.mark.parametrize("name", ["lora_sft_ds3.yaml", "full_sft.yaml"])
def test_a_deepspeed_path_of_lf_becomes_our_preset(name: str) -> None:
    assert read(name).distributed.deepspeed == deepspeed.for_stage(3)


def test_a_quantized_base_is_taken_from_an_lf_file() -> None:
    assert read("qlora_sft.yaml").model.quantization_bit == 4


@pytest.mark.parametrize(
    ("name", "made", "template"),
    [
        ("merge_lora.yaml", "merged", "qwen3_nothink"),
        ("merge_vision.yaml", "merged", None),
        ("export_4bit.yaml", "w4a16", "qwen3_nothink"),
    ],
)
def test_an_lf_export_file_posts_as_it_is(name: str, made: str, template: str | None) -> None:
    spec = read(name)
    assert isinstance(spec, ExportSpec)
    assert (spec.export.export_format, spec.source.template) == (made, template)


@pytest.mark.parametrize("name", [name for members in arguments.groups().values() for name in members])
def test_nothing_that_lf_knows_is_unknown(name: str) -> None:
    ours = {known for spec in SPECS.values() for p in schema.params(spec) for known in (p.wire, *p.aliases)}
    assert name in ours | UNSUPPORTED.keys() | WITHOUT_EFFECT.keys()


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_refused_says_why_and_what_to_use(name: str) -> None:
    refused = UNSUPPORTED[name]
    assert len(refused.reason) > 15 and len(refused.instead) > 5
    assert "not implemented" not in refused.reason


def test_alpha_left_out_is_twice_the_rank() -> None:
    assert schema.load(TrainSpec, {**SMALL, "lora_rank": 24}).lora.alpha == 48


def test_neat_packing_is_packing() -> None:
    assert schema.load(TrainSpec, {**SMALL, "neat_packing": True}).data.packing is True
    assert schema.load(TrainSpec, SMALL).data.packing is False


def test_warmup_below_one_is_a_share_of_the_steps() -> None:
    train = schema.load(TrainSpec, {**SMALL, "warmup_steps": 0.1}).train
    assert (train.warmup_ratio, train.warmup_steps) == (0.1, 0)
    assert schema.load(TrainSpec, {**SMALL, "warmup_steps": 20}).train.warmup_steps == 20


def test_validation_data_turns_validation_on() -> None:
    train = schema.load(TrainSpec, {**SMALL, "val_size": 0.1, "logging_steps": 7}).train
    assert (train.eval_strategy, train.eval_steps) == ("steps", 7)


def test_the_models_own_template_is_no_template() -> None:
    assert schema.load(TrainSpec, {**SMALL, "template": "default-of-model"}).data.template is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"val_size": 0.1, "eval_dataset": "x"}, "val_size"),
        ({"val_size": 1.5}, "val_size"),
        ({"mask_history": True, "train_on_prompt": True}, "mask_history"),
        ({"neat_packing": True, "packing": False}, "neat_packing"),
        ({"bf16": True, "fp16": True}, "fp16"),
        ({"pure_bf16": True, "fp16": True}, "pure_bf16"),
        ({"pure_bf16": True, "zero_stage": 3}, "pure_bf16"),
        ({"quantization_bit": 4, "finetuning_type": "full"}, "quantization_bit"),
        ({"quantization_bit": 4, "finetuning_type": "freeze"}, "quantization_bit"),
        ({"quantization_bit": 4, "deepspeed": "ds_z3_config"}, "quantization_bit"),
        ({"adapter_name_or_path": "x", "finetuning_type": "full"}, "adapter_name_or_path"),
        ({"adapter_name_or_path": "x,y", "quantization_bit": 4}, "adapter_name_or_path"),
        ({"adapter_name_or_path": "x,y", "zero_stage": 3}, "zero_stage"),
        ({"use_dora": True, "finetuning_type": "full"}, "use_dora"),
        ({"use_rslora": True, "finetuning_type": "freeze"}, "use_rslora"),
        ({"pissa_init": True, "finetuning_type": "full"}, "pissa_init"),
        ({"pissa_init": True, "use_dora": True}, "pissa_init"),
        ({"pissa_init": True, "quantization_bit": 4}, "pissa_init"),
        ({"pissa_init": True, "zero_stage": 3}, "pissa_init"),
        ({"loraplus_lr_ratio": 16.0, "finetuning_type": "full"}, "loraplus_lr_ratio"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"min_lr": 1e-6}}, "lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": "one"}}, "lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1.0}}, "lr_scheduler_kwargs"),
        ({"lr_scheduler_kwargs": "{broken"}, "lr_scheduler_kwargs"),
        (
            {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"decay_type": "x"}},
            "lr_scheduler_kwargs",
        ),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type"),
        ({"optim": "sgd", "optim_args": "momentum"}, "optim_args"),
        ({"optim": "sgd", "optim_args": "momentum=high"}, "optim_args"),
        ({"optim": "adamw_torch", "optim_args": "momentum=0.9"}, "optim_args"),
        ({"optim": "galore_adamw"}, "optim"),
        ({"optim_target_modules": "all"}, "optim_target_modules"),
        ({"use_muon": True, "optim": "adafactor"}, "use_muon"),
        ({"use_muon": True, "loraplus_lr_ratio": 16.0}, "use_muon"),
        ({"use_muon": True, "zero_stage": 0}, "use_muon"),
        ({"train_sampling_strategy": "sequential", "group_by_length": True}, "train_sampling_strategy"),
        ({"disable_shuffling": True, "group_by_length": True}, "group_by_length"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end"),
        ({"early_stopping_steps": 3}, "early_stopping_steps"),
        ({"eval_on_start": True}, "eval_on_start"),
        ({"greater_is_better": True}, "greater_is_better"),
        ({"metric_for_best_model": "accuracy"}, "metric_for_best_model"),
        ({"metric_for_best_model": "bleu"}, "metric_for_best_model"),
        ({"use_dft_loss": True, "use_eaft_loss": True}, "use_eaft_loss"),
        ({"use_dft_loss": True, "label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"use_dft_loss": True, "stage": "pt"}, "use_dft_loss"),
        ({"neftune_noise_alpha": 5.0, "stage": "pt"}, "neftune_noise_alpha"),
        ({"use_asft_loss": True, "pissa_init": True}, "pissa_init"),
        ({"use_llama_pro": True, "finetuning_type": "full"}, "use_llama_pro"),
        ({"use_llama_pro": True, "freeze_trainable_layers": -1}, "freeze_trainable_layers"),
        ({"train_from_scratch": True}, "train_from_scratch"),
        ({"train_from_scratch": True, "finetuning_type": "full", "stage": "dpo"}, "train_from_scratch"),
        ({"rope_scaling": "yarn", "quantization_bit": 4}, "rope_scaling"),
        ({"rope_scaling": "yarn", "zero_stage": 3}, "zero_stage"),
        ({"rope_scaling": "yarn", "stage": "rm"}, "stage"),
        ({"resize_vocab": True, "quantization_bit": 4}, "resize_vocab"),
        ({"add_tokens": "<a>", "zero_stage": 3, "finetuning_type": "full"}, "resize_vocab"),
        ({"new_special_tokens_config": "config/tokens.yaml"}, "new_special_tokens_config"),
        ({"new_special_tokens_config": {"<a>": 3}}, "new_special_tokens_config"),
        ({"shift_attn": True}, "shift_attn"),
        ({"deepspeed": "ds_z2_config.json", "zero_stage": 2}, "zero_stage"),
        ({"warmup_ratio": 0.1, "warmup_steps": 5}, "warmup_ratio"),
        ({"max_steps": 0}, "max_steps"),
        ({"freeze_trainable_layers": 0}, "freeze_trainable_layers"),
        ({"eval_strategy": "epoch"}, "eval_strategy"),
        ({"do_eval": True}, "do_eval"),
        ({"do_train": False}, "do_train"),
        ({"dataset": []}, "dataset"),
        ({"lora_target": ""}, "lora_target"),
        ({"resume_from_checkpoint": 5}, "resume_from_checkpoint"),
        ({"save_steps": 1.5}, "save_steps"),
        ({"report_to": "comet_ml"}, "report_to"),
        ({"zero_offload": "optimizer"}, "zero_offload"),
        ({"zero_offload": "optimizer+params", "zero_stage": 2}, "zero_offload"),
        ({"zero_offload": "optimizer", "deepspeed": "ds_z2_config.json"}, "zero_offload"),
        ({"use_ray": True, "ray_num_workers": 4, "num_processes": 2}, "ray_num_workers"),
        ({"use_ray": True, "ray_num_workers": 4, "ray_init_kwargs": {"num_cpus": 2}}, "ray_init_kwargs"),
        ({"use_ray": True, "ray_init_kwargs": {"address": "ray://elsewhere:10001"}}, "ray_init_kwargs"),
        ({"use_ray": True, "ray_init_kwargs": {"runtime_env": {"pip": ["emoji"]}}}, "ray_init_kwargs"),
        ({"use_ray": True, "ray_init_kwargs": '{"_temp_dir": "/etc"}'}, "ray_init_kwargs"),
        ({"use_ray": True, "ray_init_kwargs": {"num_cpu": 2}}, "ray_init_kwargs"),
        ({"use_ray": True, "ray_init_kwargs": {"log_to_driver": "yes"}}, "ray_init_kwargs"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(body: dict[str, Any], field: str) -> None:
    assert complaint({**SMALL, **body}) == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"export_legacy_format": True}, "export_legacy_format"),
        ({"export_hub_model_id": "mine"}, "export_hub_model_id"),
        ({"export_quantization_bit": 4, "export_format": "merged"}, "export_quantization_bit"),
        ({"export_quantization_bit": 7}, "export_quantization_bit"),
        ({"export_format": "ggml"}, "export_format"),
        ({"export_format": "merged", "export_gguf_type": "q4_k_m"}, "export_gguf_type"),
        ({"export_quantization_bit": 8, "export_gguf_type": "q4_k_m"}, "export_gguf_type"),
        ({"export_quantization_bit": 4, "export_gguf_type": "f16"}, "export_gguf_type"),
        ({"template": "qwenn"}, "template"),
        ({"adapter_name_or_path": "a,b", "adapter_weights": [1.0]}, "adapter_weights"),
        ({"adapter_weights": [1.0]}, "adapter_weights"),
    ],
)
def test_an_export_that_cannot_be_made_is_refused(body: dict[str, Any], field: str) -> None:
    assert complaint({"model_name_or_path": "m", **body}, ExportSpec) == field


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        ({}, False),
        ({"adapter_name_or_path": "x"}, False),
        ({"adapter_name_or_path": "x", "create_new_adapter": True}, True),
        ({"rope_scaling": "yarn"}, True),
        ({"add_special_tokens": "<a>,<b>"}, True),
        ({"new_special_tokens_config": {"<a>": "begins"}}, True),
        ({"resize_vocab": True, "finetuning_type": "full"}, False),
    ],
)
def test_an_adapter_beside_a_changed_base_is_published_merged(body: dict[str, Any], changes: bool) -> None:
    assert schema.load(TrainSpec, {**SMALL, **body}).changes_base() is changes


def test_options_of_a_schedule_may_be_json_in_a_text() -> None:
    spec = schema.load(TrainSpec, {**SMALL, "lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": '{"power": 2}'})
    assert spec.optimizer.lr_scheduler_kwargs == {"power": 2}


@pytest.mark.parametrize(
    ("body", "metric", "greatest"),
    [
        ({}, "loss", False),
        ({"metric_for_best_model": "eval_accuracy", "compute_accuracy": True}, "accuracy", True),
        ({"metric_for_best_model": "eval_loss", "greater_is_better": False}, "loss", False),
    ],
)
def test_the_best_is_the_smallest_loss_or_the_greatest_of_anything_else(
    body: dict[str, Any], metric: str, greatest: bool
) -> None:
    loop = schema.load(TrainSpec, {**SMALL, **body}).loop
    assert (loop.best_metric, loop.best_is_greatest) == (metric, greatest)


def test_fields_of_another_method_are_no_error() -> None:
    assert schema.load(TrainSpec, {**SMALL, "finetuning_type": "full", "lora_rank": 8}).tuning.finetuning_type == "full"


@pytest.mark.parametrize("name", deepspeed.names())
def test_a_preset_we_ship_passes_our_own_check(name: str) -> None:
    spec = schema.load(TrainSpec, {**SMALL, "deepspeed": deepspeed.preset(name)})
    assert spec.distributed.deepspeed == deepspeed.preset(name)
    assert f"ds_z{deepspeed.preset(name)['zero_optimization']['stage']}" in name


@pytest.mark.parametrize(
    "config",
    [
        {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/etc"}}},
        {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu", "nvme_path": "/etc"}}},
        {"zero_optimization": {"stage": 4}},
        {"zero_optimization": {"stage": True}},
        {"zero_optimization": []},
        {"csv_monitor": {"enabled": True, "output_path": "/tmp"}},
        {"zero_optimization": {"stage": 1}, "optimizer": {"params": [{"output_dir": "/tmp"}]}},
        "ds_z9_config.json",
        "../../etc/passwd",
    ],
)
def test_a_deepspeed_config_cannot_name_places_on_the_server(config: Any) -> None:
    assert complaint({**SMALL, "deepspeed": config}) == "deepspeed"


def test_registries_hold_one_declaration_per_file_under_its_name() -> None:
    for table in (stages.TABLE, methods.TABLE, formats.TABLE):
        assert table
        assert list(table) == sorted(table)
        assert all(name == made.name for name, made in table.items())
    with pytest.raises(TypeError):
        stages.TABLE["other"] = stages.get("sft")  # type: ignore[index]


@dataclass(frozen=True, kw_only=True)
class Preference:
    pref_beta: float = param(0.1, "How far from the start it may go.", minimum=0.0)

    @rule("pref_beta")
    def not_the_answer(self) -> str | None:
        return "is the answer: choose another" if self.pref_beta == 42 else None


@dataclass(frozen=True, kw_only=True)
class WithPlugIn:
    """As TrainSpec would be with a stage that brings a parameter."""

    plugged: Any = plugged({"dpo": Stage(name="dpo", doc="", rows="pair", rates={}, params=Preference)})

    def resolved(self) -> WithPlugIn:
        return self


def test_a_plug_in_brings_its_own_parameters_and_rules() -> None:
    spec = schema.load(WithPlugIn, {"pref_beta": 0.3})
    assert spec.plugged["dpo"].pref_beta == 0.3
    assert schema.to_wire(spec) == {"schema_version": schema.SCHEMA_VERSION, "pref_beta": 0.3}
    assert schema.from_stored(WithPlugIn, schema.to_wire(spec)) == spec
    assert WithPlugIn().plugged["dpo"] == Preference()
    assert complaint({"pref_beta": -1}, WithPlugIn) == complaint({"pref_beta": 42}, WithPlugIn) == "pref_beta"


@pytest.mark.parametrize(
    ("body", "written"),
    [
        ({"export_format": "gguf"}, ("gguf", "q4_k_m", 4)),
        ({"export_format": "gguf", "export_quantization_bit": 8}, ("gguf", "q8_0", 8)),
        ({"export_quantization_bit": 6}, ("gguf", "q6_k", 6)),
        ({"export_gguf_type": "q5_k_s"}, ("gguf", "q5_k_s", 5)),
        ({"export_gguf_type": "f16"}, ("gguf", "f16", None)),
        ({"export_quantization_bit": 4}, ("w4a16", None, 4)),
    ],
)
def test_a_gguf_file_is_asked_for_by_its_type_or_its_width(body: dict[str, Any], written: tuple[Any, ...]) -> None:
    made = schema.load(ExportSpec, {"model_name_or_path": "m", **body}).export
    assert (made.export_format, made.export_gguf_type, made.export_quantization_bit) == written


def test_each_width_of_export_has_one_default_format() -> None:
    assert formats.of_bits(None) == "merged"
    for bits in (None, *formats.BITS):
        assert [made.name for made in formats.TABLE.values() if bits in made.default_for] == [formats.of_bits(bits)]
    assert all(bits in formats.get(formats.of_bits(bits)).bits for bits in formats.BITS)


@pytest.mark.parametrize(
    ("body", "processes"),
    [
        ({}, None),
        ({"num_processes": 2, "ray_num_workers": 4}, 2),
        ({"use_ray": True}, 1),
        ({"use_ray": True, "num_processes": 2}, 2),
        ({"use_ray": True, "ray_num_workers": 4, "num_processes": 4}, 4),
        ({"use_ray": True, "ray_num_workers": 4, "ray_init_kwargs": '{"num_cpus": 8, "log_to_driver": true}'}, 4),
    ],
)
def test_ray_counts_processes_only_where_it_starts_them(body: dict[str, Any], processes: int | None) -> None:
    spec = schema.load(TrainSpec, {**SMALL, **body})

    assert spec.distributed.processes == processes
