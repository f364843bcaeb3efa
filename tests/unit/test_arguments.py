"""vLLM's command line and environment for what is served where."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.errors import InvalidSpec
from shared.spec import DeploySpec
from shared.spec.deploy_adapters import AdapterServing
from shared.vllm_arguments import Address, Files, Machine, Watching, adaptable, argv, base_name, env, takes_adapters

SPEC = DeploySpec(model="smol")
FILES = Files(model="/models/smol", context_length=2048)
CPU = Machine(cpu_kv_cache_gib=3, cache_folder=Path("/run/cache"))
GPU = Machine(gpus=["GPU-a", "GPU-b"], cache_folder=Path("/run/cache"))
KERNELS = replace(CPU, has_cpu_kernels=True)
ADAPTED = replace(FILES, adapter=Path("/models/tuned"), adapter_rank=8, base_name="base-135m", adaptable=True)
ADDRESS = Address(host="127.0.0.1", port=18500)


def command(spec: DeploySpec = SPEC, files: Files = FILES, machine: Machine = CPU) -> list[str]:
    return argv("/venv/python", spec, files, machine, served_name="smol", address=ADDRESS)


def value(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_the_module_is_run_and_serves_the_public_name() -> None:
    made = command()
    assert made[:3] == ["/venv/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert value(made, "--model") == "/models/smol"
    assert value(made, "--served-model-name") == "smol"
    assert (value(made, "--host"), value(made, "--port")) == ("127.0.0.1", "18500")


def test_on_a_cpu_it_runs_eagerly_in_bfloat16_and_takes_no_share_of_a_card() -> None:
    made = command()
    assert "--enforce-eager" in made
    assert value(made, "--dtype") == "bfloat16"
    assert "--gpu-memory-utilization" not in made and "--tensor-parallel-size" not in made


def test_on_gpus_the_spec_decides() -> None:
    made = command(replace(SPEC, gpu_memory_utilization=0.5, tensor_parallel_size=2), machine=GPU)
    assert "--enforce-eager" not in made
    assert value(made, "--dtype") == "auto"
    assert value(made, "--gpu-memory-utilization") == "0.5"
    assert value(made, "--tensor-parallel-size") == "2"
    assert "--enforce-eager" in command(replace(SPEC, enforce_eager=True), machine=GPU)


def test_a_dtype_that_was_asked_for_is_kept_on_a_cpu() -> None:
    assert value(command(replace(SPEC, dtype="float32")), "--dtype") == "float32"


@pytest.mark.parametrize(("asked", "has", "gets"), [(4096, 2048, 2048), (512, 2048, 512), (4096, None, 4096)])
def test_the_context_is_no_longer_than_the_model_allows(asked: int, has: int | None, gets: int) -> None:
    made = command(replace(SPEC, max_model_len=asked), replace(FILES, context_length=has))
    assert value(made, "--max-model-len") == str(gets)


def test_an_adapter_is_served_under_its_name_beside_its_base_under_its_own() -> None:
    files = replace(ADAPTED, adapter=Path("/models/tuned, v=2"))
    made = command(files=files, machine=GPU)
    assert json.loads(value(made, "--lora-modules")) == {"name": "smol", "path": "/models/tuned, v=2"}
    assert value(made, "--served-model-name") == "base-135m"
    same = replace(files, base_name="smol")
    assert value(command(files=same, machine=GPU), "--served-model-name") == base_name(same, GPU, "smol") != "smol"


def test_where_a_base_and_its_adapters_may_not_mix_a_replica_answers_for_one_adapter_alone() -> None:
    made = command(files=ADAPTED, machine=CPU)
    assert value(made, "--served-model-name") == "base-of:smol"
    assert (value(made, "--max-loras"), value(made, "--max-cpu-loras")) == ("1", "1")
    assert not takes_adapters(SPEC, ADAPTED, CPU)
    with pytest.raises(InvalidSpec, match="lacks the package"):
        command(replace(SPEC, adapters=AdapterServing(enable_lora=True)), machine=CPU)


@pytest.mark.parametrize("machine", [KERNELS, GPU])
@pytest.mark.parametrize(
    ("asked", "adaptable", "takes"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_a_base_takes_adapters_where_vllm_is_known_to_and_where_it_is_told_to(
    asked: bool | None, adaptable: bool, takes: bool, machine: Machine
) -> None:
    spec = replace(SPEC, adapters=AdapterServing(enable_lora=asked, max_loras=3, max_cpu_loras=9))
    made = command(spec, replace(FILES, adaptable=adaptable), machine)
    assert ("--enable-lora" in made) is ("--trust-request-chat-template" in made) is takes
    if takes:
        assert (value(made, "--max-loras"), value(made, "--max-cpu-loras")) == ("3", "9")
        assert value(made, "--max-lora-rank") == "32"


@pytest.mark.parametrize(
    ("config", "takes"),
    [
        ({"architectures": ["LlamaForCausalLM"], "vocab_size": 49152}, True),
        ({"architectures": ["MixtralForCausalLM"], "vocab_size": 32000}, False),
        ({"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "awq"}}, False),
        ({"architectures": ["Gemma3ForCausalLM"], "vocab_size": 262144}, False),
        ({}, False),
    ],
)
def test_a_model_takes_adapters_by_its_architecture_and_unquantized(
    config: dict[str, Any], takes: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert adaptable(tmp_path) is takes
    assert not adaptable(tmp_path / "elsewhere")


@pytest.mark.parametrize(("rank", "told"), [(4, "32"), (32, "32"), (33, "64"), (300, "320")])
def test_the_largest_rank_is_at_least_the_adapters(rank: int, told: str) -> None:
    files = replace(FILES, adapter=Path("/adapter"), adapter_rank=rank)
    assert value(command(files=files), "--max-lora-rank") == told


def test_an_adapter_of_a_rank_that_vllm_lacks_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="merge it"):
        command(files=replace(FILES, adapter=Path("/adapter"), adapter_rank=1024))


def test_thinking_is_told_to_the_template_where_the_deployment_says_so() -> None:
    assert "--default-chat-template-kwargs" not in command()
    told = value(command(replace(SPEC, enable_thinking=False)), "--default-chat-template-kwargs")
    assert json.loads(told) == {"enable_thinking": False}


def test_what_was_left_out_is_left_to_vllm() -> None:
    made = command()
    assert not {"--max-num-seqs", "--chat-template", "--trust-remote-code", "--enable-lora"} & set(made)
    full = command(
        replace(SPEC, max_num_seqs=8, trust_remote_code=True),
        replace(FILES, chat_template=Path("/t.jinja"), generation=Path("/adapter")),
    )
    assert value(full, "--max-num-seqs") == "8"
    assert value(full, "--chat-template") == "/t.jinja"
    assert value(full, "--generation-config") == "/adapter"
    assert "--trust-remote-code" in full


def test_the_key_is_in_the_environment_only() -> None:
    assert env(FILES, CPU, api_key="secret")["VLLM_API_KEY"] == "secret"
    assert "secret" not in command()


def test_the_environment_names_the_cards_or_the_memory() -> None:
    assert env(FILES, GPU, api_key="k")["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert "VLLM_CPU_KVCACHE_SPACE" not in env(FILES, GPU, api_key="k")
    assert env(FILES, CPU, api_key="k")["VLLM_CPU_KVCACHE_SPACE"] == "3"
    # A GPU's model is compiled before it answers; on a CPU it would be pieces of the sampler while it does.
    assert "TORCH_COMPILE_DISABLE" not in env(FILES, GPU, api_key="k")
    assert env(FILES, CPU, api_key="k")["TORCH_COMPILE_DISABLE"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in env(FILES, CPU, api_key="k")


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert Address(host="::1", port=80).url == "http://[::1]:80"


def test_a_model_that_lies_here_never_asks_the_hub() -> None:
    assert env(FILES, CPU, api_key="k")["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in env(Files(model="org/model"), CPU, api_key="k")


def test_a_replica_sends_its_spans_where_ours_go_and_logs_requests_where_it_is_told_to() -> None:
    watching = Watching(traces_url="http://c:4318/v1/traces", traces_headers="key=s3cret", logs_requests=True)
    machine = replace(CPU, watching=watching)
    made = command(machine=machine)
    assert value(made, "--otlp-traces-endpoint") == "http://c:4318/v1/traces" and "--enable-log-requests" in made
    assert "s3cret" not in " ".join(made)
    told = env(Files(model="owner/name"), machine, api_key="k")
    assert told["OTEL_EXPORTER_OTLP_HEADERS"] == "key=s3cret"
    assert told["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert not [name for name in env(Files(model="owner/name"), CPU, api_key="k") if name.startswith("OTEL")]
