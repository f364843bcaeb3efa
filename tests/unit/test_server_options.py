"""Further arguments of vLLM: as fields, as LF's `vllm_config`, on its command line; parsers found in chat templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference_worker.files import bring
from shared import fitting, parsers, schema, templates
from shared.errors import InvalidSpec
from shared.records import NewModel
from shared.settings import Settings
from shared.spec import DeploySpec
from shared.vllm_options import options
from tests.platform import make_platform, write_model


def load(**said: Any) -> DeploySpec:
    return schema.load(DeploySpec, {"model": "m", **said})


def command(on_gpus: bool = True, calls: str | None = None, thoughts: str | None = None, **said: Any) -> str:
    return " ".join(options(load(**said).server, on_gpus=on_gpus, calls=calls, thoughts=thoughts))


def test_what_is_vllms_own_default_is_left_out_but_for_the_room_of_beams() -> None:
    assert command() == "--max-logprobs 128"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"quantization": "fp8", "kv_cache_dtype": "fp8"}, "--quantization fp8 --kv-cache-dtype fp8"),
        ({"enable_prefix_caching": False}, "--no-enable-prefix-caching"),
        ({"enable_chunked_prefill": True, "max_num_batched_tokens": 64}, "--max-num-batched-tokens 64"),
        ({"pipeline_parallel_size": 2, "cpu_offload_gb": 1.5}, "--pipeline-parallel-size 2 --cpu-offload-gb 1.5"),
        ({"scheduling_policy": "priority", "stream_interval": 4}, "--scheduling-policy priority --stream-interval 4"),
        ({"speculative_tokens": 3}, '--speculative-config {"method": "ngram", "num_speculative_tokens": 3'),
        ({"tool_call_parser": "hermes"}, "--enable-auto-tool-choice --tool-call-parser hermes"),
        ({"tool_call_parser": "hermes", "tool_strict_level": "parameter"}, "hermes --tool-strict-level parameter"),
        ({"reasoning_parser": "qwen3"}, "--reasoning-parser qwen3"),
    ],
)
def test_fields_become_options(said: Any, expected: str) -> None:
    assert expected in command(**said)


def test_what_only_cards_have_is_no_option_on_a_cpu() -> None:
    assert command(on_gpus=False, cpu_offload_gb=4, pipeline_parallel_size=2) == "--max-logprobs 128"
    assert fitting.num_devices(schema.to_wire(load(tensor_parallel_size=2, pipeline_parallel_size=3))) == 6


def test_found_parsers_are_taken_unless_the_deployment_says_otherwise() -> None:
    assert "--tool-call-parser hermes --reasoning-parser qwen3" in command(calls="hermes", thoughts="qwen3")
    none = command(calls="hermes", thoughts="qwen3", tool_call_parser="none", reasoning_parser="none")
    assert none == "--max-logprobs 128"
    assert "--tool-call-parser mistral" in command(calls="hermes", tool_call_parser="mistral")


@pytest.mark.parametrize(
    "told", [{"max_model_len": 64, "block_size": 16, "disable_log_stats": True}, '{"max_model_len": 64}']
)
def test_lfs_dict_is_taken_by_name_and_goes_before_what_stands_beside_it(told: Any) -> None:
    spec = load(vllm_config=told, max_model_len=512)
    assert spec.max_model_len == 64 and spec.server.vllm_config == {}
    assert spec.server.block_size == (16 if isinstance(told, dict) else None)


@pytest.mark.parametrize(
    ("told", "field", "part"),
    [
        ({"served_model_name": "x"}, "vllm_config", "served_model_name"),
        ({"enable_prefix_cachin": True}, "vllm_config", "did you mean 'enable_prefix_caching'?"),
        ({"max_model_len": "long"}, "max_model_len", "whole number"),
        ("{", "vllm_config", "JSON"),
        ([1], "vllm_config", "object"),
    ],
)
def test_what_the_dict_may_not_have_is_told(told: Any, field: str, part: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        load(vllm_config=told)
    [complaint] = refused.value.complaints
    assert complaint.field == field and part in complaint.message


def test_another_engine_is_not_told_what_it_does_not_know() -> None:
    with pytest.raises(InvalidSpec, match="which has no quantization, stream_interval"):
        load(engine="transformers", quantization="fp8", stream_interval=2)
    assert load(engine="transformers").engine == "transformers"


@pytest.mark.parametrize(
    ("template", "calls", "thoughts"),
    [
        ("qwen", "hermes", None),
        ("qwen3", "hermes", "qwen3"),
        ("qwen3_nothink", "hermes", None),
        ("qwen3_5", "qwen3_coder", "qwen3"),
        ("llama3", "llama3_json", None),
        ("mistral", "mistral", None),
        ("glm4_moe", "glm45", "glm45"),
        ("gemma4", "gemma4", "gemma4"),
        ("seed_oss", "seed_oss", "seed_oss"),
        ("minimax2", "minimax_m2", "minimax_m2"),
        ("gpt_oss", "openai", "openai_gptoss"),
        ("lfm2", "lfm2", None),
        ("smollm2", None, None),
        ("alpaca", None, None),
    ],
)
def test_a_template_shows_its_parsers(template: str, calls: str | None, thoughts: str | None) -> None:
    jinja = templates.get(template).jinja
    assert parsers.of_calls(jinja, lambda token: True) == calls
    assert parsers.of_thoughts(jinja, lambda token: True) == thoughts


def test_a_parser_that_would_miss_its_tokens_is_not_chosen() -> None:
    jinja = templates.get("qwen3").jinja
    assert parsers.of_thoughts(jinja, lambda token: token != "</think>") is None
    assert parsers.of_calls(templates.get("mistral").jinja, lambda token: False) is None


def test_what_is_served_is_looked_at_for_its_parsers(tmp_path: Path) -> None:
    platform = make_platform(tmp_path / "home")
    folder = tmp_path / "thinking"
    write_model(folder)
    (folder / "chat_template.jinja").write_text(templates.get("qwen3").jinja)
    (folder / "tokenizer.json").write_text('{"added_tokens": [{"content": "<think>"}, {"content": "</think>"}]}')
    project_id = platform.store.projects.default().id
    sealed = platform.artifacts.put_folder(folder, platform.artifacts.uri("models", "t"))
    new = NewModel(name="t", kind="base", uri=sealed.uri, digest="d", size_bytes=1, format="safetensors")
    platform.store.models.create(project_id, new)

    def found(settings: Settings, **said: Any) -> tuple[str | None, str | None]:
        spec = schema.load(DeploySpec, {"model": "t", **said})
        files = bring(platform.store, platform.artifacts, settings, project_id, "t", spec, tmp_path)
        return files.calls, files.thoughts

    assert found(platform.settings) == ("hermes", "qwen3")
    assert found(platform.settings, template="llama3") == ("llama3_json", None)
