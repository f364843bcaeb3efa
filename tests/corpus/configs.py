"""Bodies that must be refused: what is sent, the status, the field that is named, and a part of what is said of it.

Each is posted to the real gateway: answered with 4xx within a second, under its field, with nothing queued. The base
request is good: what a case changes in it is what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: A request that is accepted, in the catalog of `tests.lf_examples.posting`.
GOOD: Mapping[str, Any] = {"model_name_or_path": "tiny", "dataset": "identity"}
YAML = "application/yaml"
JSON = "application/json"
GOOD_YAML = "model_name_or_path: tiny\ndataset: identity\n"


@dataclass(frozen=True, kw_only=True)
class Case:
    id: str
    body: bytes
    #: Part of the path of the field that is named: `issues[].field`, or `param` where the body cannot be read.
    field: str
    part: str
    status: int = 422
    content_type: str | None = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = "/v1/jobs"


def fields(id: str, field: str, part: str, **changed: Any) -> Case:
    """The good request with some fields changed."""
    return Case(id=id, body=json.dumps(dict(GOOD) | changed).encode(), field=field, part=part)


def value(field: str, value: Any, part: str) -> Case:
    return fields(f"{field}={str(value)[:40]}", field, part, **{field: value})


def text(id: str, body: str | bytes, field: str, part: str, *, status: int = 400, content_type: str = JSON) -> Case:
    data = body.encode() if isinstance(body, str) else body
    return Case(id=id, body=data, field=field, part=part, status=status, content_type=content_type)


def yaml(id: str, body: str | bytes, part: str, *, field: str = "body", status: int = 400) -> Case:
    return text(f"yaml: {id}", body, field, part, status=status, content_type=YAML)


def nested(levels: int) -> Any:
    made: Any = 1
    for _ in range(levels):
        made = [made]
    return made


TYPES = [
    value("lora_rank", "8", "whole number"),
    value("lora_rank", 8.0, "whole number"),
    value("lora_rank", True, "whole number"),
    value("lora_rank", None, "is null"),
    value("lora_rank", [8], "whole number"),
    value("lora_rank", {}, "whole number"),
    value("learning_rate", "5e-5", "must be a number"),
    value("learning_rate", False, "must be a number"),
    value("num_train_epochs", "3", "must be a number"),
    value("bf16", "true", "true or false"),
    value("bf16", "yes", "true or false"),
    value("bf16", 1, "true or false"),
    value("bf16", "False", "true or false"),
    value("packing", "no", "true or false"),
    value("output_dir", 3, "must be text"),
    value("template", 3, "must be text"),
    value("template", ["qwen"], "must be text"),
    value("model_name_or_path", 7, "must be text"),
    value("model_name_or_path", ["a", "b"], "must be text"),
    value("model_name_or_path", {"name": "a"}, "must be text"),
    value("model_name_or_path", None, "is null"),
    value("dataset", 7, "list of names"),
    value("dataset", [["identity"]], "list of names"),
    value("dataset", {"identity": 1}, "list of names"),
    value("dataset", None, "is"),
    value("deepspeed", 3, "preset's name or an object"),
    value("deepspeed", [], "preset's name or an object"),
    value("stage", 1, "must be text"),
    value("warmup_steps", "10", "must be a number"),
    value("save_steps", 1.5, "whole number of steps"),
    value("seed", "42", "whole number"),
    value("include_num_input_tokens_seen", "some", "non_padding"),
]
RANGES = [
    value("lora_rank", 0, "at least 1"),
    value("lora_rank", -8, "at least 1"),
    value("lora_rank", 100_000, "at most"),
    value("lora_rank", 10**30, "64 bits"),
    value("lora_alpha", 0, "at least 1"),
    value("lora_dropout", 1.0, "below 1"),
    value("lora_dropout", -0.1, "at least 0"),
    value("learning_rate", 0, "above 0"),
    value("learning_rate", -5e-5, "above 0"),
    value("learning_rate", -0.0, "above 0"),
    value("learning_rate", 50, "at most 1"),
    value("learning_rate", 10**400, "64 bits"),
    value("num_train_epochs", 0, "above 0"),
    value("max_steps", -2, "at least -1"),
    value("max_steps", 0, "is 0"),
    value("per_device_train_batch_size", 0, "at least 1"),
    value("gradient_accumulation_steps", -1, "at least 1"),
    value("cutoff_len", 1, "at least 8"),
    value("cutoff_len", 2**63, "64 bits"),
    value("max_samples", 0, "at least 1"),
    value("val_size", -0.1, "at least 0"),
    value("val_size", 1.5, "whole number of rows"),
    value("warmup_ratio", 1.1, "at most 1"),
    value("warmup_steps", -1, "at least 0"),
    value("warmup_steps", 2.5, "whole number of steps"),
    value("weight_decay", 2, "at most 1"),
    value("adam_beta1", 1.0, "below 1"),
    value("adam_beta2", -1, "at least 0"),
    value("adam_epsilon", 0, "above 0"),
    value("max_grad_norm", -1, "at least 0"),
    value("seed", -1, "at least 0"),
    value("seed", 2**40, "at most"),
    value("save_total_limit", 0, "at least 1"),
    value("logging_steps", 0, "at least 1"),
    value("num_processes", 0, "at least 1"),
    value("ddp_timeout", 0, "at least 1"),
    value("freeze_trainable_layers", 0, "is 0"),
    value("ray_num_workers", 0, "at least 1"),
    value("priority", 101, "at most 100"),
]
CHOICES = [
    value("finetuning_type", "Lora", "did you mean 'lora'"),
    value("finetuning_type", "oft", "lora"),
    value("stage", "sfft", "did you mean 'sft'"),
    value("stage", "SFT", "must be one of"),
    value("optim", "adam", "must be one of"),
    value("lr_scheduler_type", "cosin", "did you mean 'cosine'"),
    value("flash_attn", "fa4", "must be one of"),
    value("flash_attn", True, "must be text"),
    value("quantization_bit", 3, "must be one of 4, 8"),
    value("quantization_bit", 4.5, "whole number"),
    value("quantization_method", "hqq", "use bnb"),
    value("quantization_method", "magic", "must be bnb"),
    value("quantization_type", "int4", "must be one of"),
    value("save_strategy", "never", "must be one of"),
    value("eval_strategy", "sometimes", "must be one of"),
    value("template", "qwen33", "did you mean"),
    value("template", "", "must be"),
    value("zero_stage", 4, "must be one of"),
    value("deepspeed", "ds_z4_config.json", "did you mean"),
    value("deepspeed", "examples/deepspeed/ds_z2_autotp_config.json", "tensor parallelism"),
    value("kind", "training", "must be one of"),
    value("kind", 1, "must be text"),
]
NAMES = [
    value("lora_rnk", 8, "did you mean 'lora_rank'"),
    value("LORA_RANK", 8, "is unknown"),
    value("lora-rank", 8, "did you mean 'lora_rank'"),
    value("lora_r\u0430nk", 8, "did you mean 'lora_rank'"),  # a Cyrillic letter
    value("\uff4cora_rank", 8, "is unknown"),  # a full-width letter
    value("", 8, "is unknown"),
    value(" lora_rank", 8, "did you mean 'lora_rank'"),
    value("__class__", 8, "is unknown"),
    value("self", 8, "is unknown"),
    value("lora.rank", 8, "is unknown"),
    fields("a long name", "x" * 200, "is unknown", **{"x" * 10_000: 1}),
    fields("model under two names", "model_name_or_path", "and 'model' are names of one field", model="other"),
    fields("rank under two names", "lora_rank", "given twice", lora_r=8, lora_rank=4),
    fields("1,001 fields", "body", "at most 1000", **{f"field_{n}": n for n in range(1_001)}),
    fields("a secret in a wrong place", "metadata", "values texts", metadata={"token": 5}),
    fields("a secret that is no text", "hf_hub_token", "must be text", hf_hub_token=["hf_abc"]),
    fields("a secret that is empty", "hf_hub_token", "must be text", hf_hub_token=""),
    fields("a secret of a tracker", "swanlab_api_key", "must be text", swanlab_api_key=["sk-abc"]),
    fields("a field of an export", "export_quantization_nsamples", "field of export", kind="train",
           export_quantization_nsamples=7),
    fields("a field of a deployment", "max_model_len", "field of deploy", max_model_len=512),
]  # fmt: skip
MISSING = [
    text("an empty object", "{}", "model_name_or_path", "is required", status=422),
    text("no model", '{"dataset": "identity"}', "model_name_or_path", "is required", status=422),
    text("no dataset", '{"model_name_or_path": "tiny"}', "dataset", "is required", status=422),
    value("dataset", "", "is empty"),
    value("dataset", [], "is empty"),
    value("dataset", " , ,", "is empty"),
    value("dataset", "nowhere", "no dataset"),
    value("model_name_or_path", "", "no model"),
    value("model_name_or_path", "nowhere", "no model"),
    value("model_name_or_path", ".", "config.json"),
    value("model_name_or_path", "data", "config.json"),
    value("model_name_or_path", "tiny/config.json", "config.json"),
    value("eval_dataset", "nowhere", "no dataset"),
    value("adapter_name_or_path", "nowhere", "no model"),
    value("lora_target", [], "is empty"),
]
PLACES = [
    value("model_name_or_path", "../../etc/passwd", "TUNESMITH_IMPORT_ROOTS"),
    value("model_name_or_path", "/etc", "TUNESMITH_IMPORT_ROOTS"),
    value("model_name_or_path", "tiny/../../..", "no model"),
    value("model_name_or_path", "~/models/tiny", "TUNESMITH_IMPORT_ROOTS"),
    value("model_name_or_path", "file:///etc/passwd", "no model"),
    value("model_name_or_path", "https://example.com/model", "no model"),
    value("model_name_or_path", "org/../other", "no model"),
    value("model_name_or_path", "$(reboot)", "no model"),
    value("model_name_or_path", "tiny; rm -rf /", "no model"),
    value("model_name_or_path", "tiny\u0000", "NUL"),
    value("model_name_or_path", "$model", "no model"),
    value("model_name_or_path", "a" * 5_000, "cannot be looked up"),
    value("dataset", "../ledger.sqlite3", "TUNESMITH_IMPORT_ROOTS"),
    value("dataset", "/etc/passwd", "TUNESMITH_IMPORT_ROOTS"),
    value("dataset", "s3://bucket/rows.jsonl", "no dataset"),
    value("dataset", "`id`", "no dataset"),
    value("deepspeed", "../../etc/passwd", "must be an object"),
    value("deepspeed", {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, "offloads to"),
    value("deepspeed", {"zero_optimization": {"stage": 3, "offload_param": {"nvme_path": "/"}}}, "place on the server"),
    value("deepspeed", {"tensorboard": {"enabled": True, "output_path": "/tmp"}}, "not allowed"),
    value("deepspeed", {"zero_optimization": {"stage": 9}}, "stage of 0, 1, 2 or 3"),
    value("deepspeed", {"zero_optimization": {"stage": 3, "offload_param": nested(30)}}, "nested deeper"),
    value("deepspeed", {"zero_optimization": {"stage": 2, "overlap_com": True}}, "did you mean 'overlap_comm'"),
    value("deepspeed", {"zero_optimization": {"stage": 2, "reduce_bucket_size": "1e8"}}, "true, false or auto"),
    value("deepspeed", {"monitor_config": {"enabled": False}}, "events of the job"),
    value("deepspeed", {"tensor_parallel": {"autotp_size": 4}}, "samples of its own"),
    value("output_dir", "a\nb", "one line"),
    value("output_dir", "", "one line"),
    value("output_dir", "x" * 600, "at most 512"),
    value("output_dir", "a\u0000b", "NUL"),
    value("resume_from_checkpoint", "/etc", "no such checkpoint"),
    value("default_system", "x" * 100_000, "at most 65536"),
    value("default_system", "\ud800", "surrogate"),
    value("run_name", "a\rb", "one line"),
    value("template", "../../etc/passwd", "must be"),
    value("template", "{{ 7 * 7 }}", "must be"),
]
COMBINATIONS = [
    fields("two precisions", "fp16", "together with bf16", bf16=True, fp16=True),
    fields("pure_bf16 and fp16", "pure_bf16", "together with fp16", pure_bf16=True, fp16=True),
    fields("pure_bf16 and ZeRO-3", "pure_bf16", "ZeRO-3", pure_bf16=True, zero_stage=3),
    fields("pure_bf16 and a preset of ZeRO-3", "pure_bf16", "ZeRO-3", pure_bf16=True, deepspeed="ds_z3_config.json"),
    fields("quantized and ZeRO-3", "quantization_bit", "ZeRO-3", quantization_bit=4, zero_stage=3),
    fields("quantized and full", "quantization_bit", "lora", quantization_bit=4, finetuning_type="full"),
    fields("quantized and freeze", "quantization_bit", "lora", quantization_bit=8, finetuning_type="freeze"),
    fields("adapter and full", "adapter_name_or_path", "full", adapter_name_or_path="ft:saves/tiny/lora/sft",
           finetuning_type="full"),
    fields("several adapters, one of them unknown", "adapter_name_or_path", "no model 'b'",
           adapter_name_or_path="ft:saves/tiny/lora/sft,b"),
    fields("several adapters of an export, one of them unknown", "adapter_name_or_path", "no model 'b'", kind="export",
           dataset=None, adapter_name_or_path="ft:saves/tiny/lora/sft,b"),
    fields("a weight too few", "adapter_weights", "names 2", kind="export", dataset=None, adapter_weights=[0.5],
           adapter_name_or_path="ft:saves/tiny/lora/sft,ft:saves/tiny/lora/sft"),
    fields("a weight beyond measure", "adapter_weights", "between -10 and 10", kind="export", dataset=None,
           adapter_weights=[11.0], adapter_name_or_path="ft:saves/tiny/lora/sft"),
    fields("dora and full", "use_dora", "kind of LoRA", use_dora=True, finetuning_type="full"),
    fields("rslora and freeze", "use_rslora", "kind of LoRA", use_rslora=True, finetuning_type="freeze"),
    fields("two sources of validation", "val_size", "together with eval_dataset", val_size=0.1,
           eval_dataset="alpaca_en_demo"),
    fields("shares of no mixture", "interleave_probs", "interleaves", dataset=["identity", "alpaca_en_demo"],
           interleave_probs=[0.5, 0.5]),
    fields("shares beyond the whole", "interleave_probs", "add up to 1", dataset=["identity", "alpaca_en_demo"],
           mix_strategy="interleave_over", interleave_probs="0.5,0.6"),
    fields("a share of nothing", "interleave_probs", "above 0", dataset=["identity", "alpaca_en_demo"],
           mix_strategy="interleave_over", interleave_probs=[0, 1]),
    fields("a share too few", "interleave_probs", "1 shares for 2", dataset=["identity", "alpaca_en_demo"],
           mix_strategy="interleave_over", interleave_probs=[1.0]),
    fields("shares as words", "interleave_probs", "list of numbers", dataset=["identity", "alpaca_en_demo"],
           mix_strategy="interleave_over", interleave_probs="half,half"),
    fields("a stream without an end", "streaming", "needs max_steps", streaming=True),
    fields("a stream of samples", "streaming", "max_samples", streaming=True, max_steps=5, max_samples=10),
    fields("a share of a stream", "val_size", "a stream has no size", streaming=True, max_steps=5, val_size=0.1),
    fields("each of no validation", "eval_on_each_dataset", "needs eval_dataset", eval_on_each_dataset=True),
    value("mix_strategy", "interleave", "must be one of"),
    value("buffer_size", 0, "at least 1"),
    fields("two masks", "mask_history", "train_on_prompt", mask_history=True, train_on_prompt=True),
    fields("packing denied", "neat_packing", "kind of packing", neat_packing=True, packing=False),
    fields("two kinds of warmup", "warmup_ratio", "warmup_steps", warmup_ratio=0.1, warmup_steps=10),
    fields("two ways to say DeepSpeed", "zero_stage", "deepspeed", zero_stage=2, deepspeed="ds_z2_config.json"),
    fields("validation of nothing", "eval_strategy", "nothing to validate", eval_strategy="steps"),
    fields("final validation of nothing", "do_eval", "nothing to validate", do_eval=True),
    fields("no training", "do_train", "a training job trains", do_train=False),
    fields("ray", "ray_init_kwargs", "not supported", use_ray=True, ray_init_kwargs={"address": "auto"}),
    fields("a tracker without a key", "wandb_api_key", "report_to wandb needs it", report_to="wandb"),
    fields("an unknown tracker", "report_to", "names comet_ml", report_to=["comet_ml", "tensorboard"]),
    fields("a bot of somebody else", "swanlab_lark_webhook_url", "open.feishu.cn", use_swanlab=True,
           swanlab_mode="local", swanlab_lark_webhook_url="https://10.0.0.1/hook"),
    fields("a project with a path", "swanlab_project", "letters", use_swanlab=True, swanlab_mode="local",
           swanlab_project="../mine"),
    fields("an export of bits and a format", "export_quantization_bit", "contradicts", kind="export", dataset=None,
           export_quantization_bit=4, export_format="merged"),
    fields("an export of pickles", "export_legacy_format", "pickled", kind="export", dataset=None,
           export_legacy_format=True),
    fields("a push of an export without a token", "hf_hub_token", "required", kind="export", dataset=None,
           export_hub_model_id="me/mine"),
    fields("a push to what is no repository", "export_hub_model_id", "owner/name", kind="export", dataset=None,
           export_hub_model_id="../mine"),
    fields("an unknown format", "export_format", "must be one of", kind="export", dataset=None, export_format="zip"),
    fields("a training on pairs without preferences", "dataset", "preference pairs", dataset="dpo_en_demo"),
    fields("a model that is quantized", "model_name_or_path", "quantized by awq", model_name_or_path="org/model-AWQ"),
    fields("galore", "use_galore", "GaLore", use_galore=True),
    fields("images", "image_max_pixels", "images", image_max_pixels=1),
    fields("megatron", "pipeline_model_parallel_size", "Megatron", pipeline_model_parallel_size=4),
    fields("a config of v1", "peft_config", "v1", peft_config={"name": "lora"}),
    fields("everything at once", "lora_rank", "at least 1", lora_rank=0, stage="x", bf16="yes", dataset="", foo=1),
]  # fmt: skip
THEN = [
    value("then", "export", "list of objects"),
    value("then", {}, "list of objects"),
    value("then", ["export"], "list of objects"),
    value("then", [{}], "must be one of"),
    value("then", [{"kind": "fly"}], "must be one of"),
    value("then", [{"kind": "export"}] * 9, "at most 8"),
    fields("then: unknown field", "then[0].bits", "is unknown", then=[{"kind": "export", "bits": 4}]),
    fields("then: wrong value", "then[0].export_size", "at least 1", then=[{"kind": "export", "export_size": 0}]),
    fields("then: of then", "then[0].then[0].max_model_len", "whole number",
           then=[{"kind": "export", "then": [{"kind": "deploy", "max_model_len": "long"}]}]),
    fields("then: unknown kind of then", "then[0].then", "must be one of",
           then=[{"kind": "export", "then": [{"kind": "fly"}]}]),
    fields("then: after a deployment", "then[0].then", "no end",
           then=[{"kind": "deploy", "then": [{"kind": "export"}]}]),
    fields("then: a secret", "then[0].hf_hub_token", "job itself", then=[{"kind": "export", "hf_hub_token": "hf_x"}]),
    fields("then: no dataset", "then[0].dataset", "is required", then=[{"kind": "train"}]),
    fields("then: a metadata that is none", "then[0].metadata", "must be an object",
           then=[{"kind": "export", "metadata": []}]),
    fields("then: nested without end", "then", "", then=nested(600)),
]  # fmt: skip
ENVELOPE = [
    value("metadata", [], "must be an object"),
    value("metadata", "a=b", "must be an object"),
    value("metadata", {"a": 1}, "values texts"),
    value("metadata", {"a": None}, "values texts"),
    value("metadata", {"a" * 65: "b"}, "names up to 64"),
    value("metadata", {"a": "b" * 513}, "texts up to 512"),
    fields("metadata of 17", "metadata", "at most 16", metadata={str(n): "" for n in range(17)}),
    value("metadata", {"a": "b\u0000"}, "NUL"),
    value("priority", "high", "whole number"),
    value("priority", -101, "at least -100"),
    value("suffix", "a b", "letters"),
    value("suffix", "", "letters"),
    value("suffix", "x" * 65, "64"),
    value("name", "x" * 300, "at most 256"),
    value("name", 5, "must be text"),
]


def deployment(field: str, value: Any, part: str) -> Case:
    body = json.dumps({"model": "whole", field: value}).encode()
    return Case(id=f"deployment: {field}={str(value)[:40]}", body=body, field=field, part=part, path="/v1/deployments")


def generation(field: str, value: Any, part: str) -> Case:
    changed = {"kind": "generate", "model": "whole", "dataset": "identity", field: value}
    body = json.dumps(changed).encode()
    return Case(id=f"generation: {field}={str(value)[:40]}", body=body, field=field, part=part)


def export(field: str, value: Any, part: str) -> Case:
    return fields(
        f"export: {field}={str(value)[:40]}", field, part, **{"kind": "export", "dataset": None, field: value}
    )


OTHERS = [
    deployment("model", None, "is null"),
    deployment("model", "nowhere", "no model"),
    deployment("model", "tiny", "only models of the catalog"),
    deployment("model", 5, "must be text"),
    deployment("replicas", 0, "at least 1"),
    deployment("replicas", "2", "whole number"),
    deployment("dtype", "float8", "must be one of"),
    deployment("max_model_len", 1, "at least 16"),
    deployment("gpu_memory_utilization", 0, "above 0"),
    deployment("gpu_memory_utilization", 1.5, "at most 1"),
    deployment("vllm_max_lora_rank", 33, "must be one of"),
    deployment("vllm_config", {"served_model_name": "x"}, "no argument of vLLM"),
    deployment("tensor_parallel_size", 0, "at least 1"),
    deployment("infer_backend", "sglang", "vLLM"),
    deployment("template", "qwen33", "did you mean"),
    deployment("stage", "dpo", "field of train"),
    deployment("lora_rnk", 8, "is unknown"),
    deployment("name", "a\nb", "one line"),
    deployment("trust_remote_code", "yes", "true or false"),
    generation("model", "nowhere", "no model"),
    generation("dataset", "nowhere", "no dataset"),
    generation("dataset", ["identity", "math"], "must be text"),
    generation("temperature", 3, "at most 2"),
    generation("top_p", 0, "above 0"),
    generation("max_new_tokens", 0, "at least 1"),
    generation("n", 0, "at least 1"),
    generation("stop", [1], "list of texts"),
    generation("num_beams", 65, "at most 64"),
    generation("tools", [{"function": {"name": "a b"}}], "letters"),
    generation("response_format", {"type": "xml"}, "must be one of"),
    generation("tool_choice", "auto", "needs tools"),
    generation("preset", "nowhere", "no such preset"),
    deployment("generation", {"temperature": 3}, "at most 2"),
    generation("lora_rank", 9, "field of train"),
    export("export_size", 0, "at least 1"),
    export("export_device", "cuda", "must be one of"),
    export("export_format", "gguff", "must be one of"),
    export("export_quantization_bit", 7, "must be one of"),
    export("export_quantization_dataset", "nowhere", "no dataset"),
    export("export_quantization_nsamples", 0, "at least 1"),
    export("export_dir", "", "one line"),
    export("learning_rate", 1e-5, "field of train"),
    export("adapter_name_or_path", "whole", "must be an adapter"),
]
CASES = [*TYPES, *RANGES, *CHOICES, *NAMES, *MISSING, *PLACES, *COMBINATIONS, *THEN, *ENVELOPE, *OTHERS]
