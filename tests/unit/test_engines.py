"""How each engine is started, and how its failures are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from inference_worker import engines
from inference_worker.engines import LAUNCHERS
from shared import formats, schema, serving
from shared.engines import ENGINES
from shared.errors import InvalidSpec
from shared.requirements import Device
from shared.spec import DeploySpec
from shared.vllm_arguments import Address, Files, Machine

SPEC = schema.load(DeploySpec, {"model": "smol", "engine": "transformers"})
FILES = Files(model="/models/smol", context_length=2048)
CPU = Machine(cpu_kv_cache_gib=3, cache_folder=Path("/run/cache"))
ADDRESS = Address(host="127.0.0.1", port=18500)
CARD = Device(id="GPU-a", kind="NVIDIA H100", capability=9.0)


def command(spec: DeploySpec = SPEC, files: Files = FILES, machine: Machine = CPU) -> list[str]:
    return engines.of(spec).argv("/venv/python", spec, files, machine, served_name="smol", address=ADDRESS)


def value(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_every_engine_of_a_spec_can_be_started_and_vllm_is_meant_where_none_is_named() -> None:
    assert LAUNCHERS.keys() == ENGINES.keys()
    assert engines.of(schema.load(DeploySpec, {"model": "smol"})).engine.title == "vLLM"
    with pytest.raises(InvalidSpec, match="engine"):
        schema.load(DeploySpec, {"model": "smol", "engine": "sglang"})


def test_the_transformers_server_is_told_what_vllm_would_be() -> None:
    full = replace(SPEC, max_num_seqs=5, enable_thinking=False, trust_remote_code=True)
    made = command(full, replace(FILES, chat_template=Path("/t.jinja"), generation=Path("/adapter")))
    assert made[:3] == ["/venv/python", "-m", "inference_worker.child.transformers_server"]
    told = {name: value(made, f"--{name}") for name in ("model", "dtype", "max-model-len", "max-num-seqs", "port")}
    assert told == {"model": "/models/smol", "dtype": "bfloat16", "max-model-len": "2048", "max-num-seqs": "5",
                    "port": "18500"}  # fmt: skip
    assert (value(made, "--chat-template"), value(made, "--generation-config")) == ("/t.jinja", "/adapter")
    assert json.loads(value(made, "--default-chat-template-kwargs")) == {"enable_thinking": False}
    assert value(made, "--kv-cache-gib") == "3" and "--trust-remote-code" in made


def test_an_adapter_is_told_with_its_base_under_its_own_name() -> None:
    made = command(files=replace(FILES, adapter=Path("/models/tuned"), adapter_rank=40, base_name="base"))
    assert json.loads(value(made, "--lora-modules")) == {"name": "smol", "path": "/models/tuned"}
    assert (value(made, "--served-model-name"), value(made, "--max-lora-rank")) == ("base", "64")


def test_the_key_is_in_the_environment_only_and_no_card_is_seen_that_is_not_the_replicas() -> None:
    env = engines.of(SPEC).env(FILES, CPU, api_key="secret")
    assert env == {"REPLICA_API_KEY": "secret", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    on_card = engines.of(SPEC).env(FILES, replace(CPU, gpus=["GPU-a"]), api_key="secret")
    assert on_card["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert "secret" not in " ".join(command())


def test_quantized_formats_are_refused_for_transformers_on_every_machine() -> None:
    quantized = formats.TABLE["w4a16"]
    assert serving.refusal("smol", quantized, [CARD]) is None
    assert "which engine transformers does not load" in str(
        serving.refusal("smol", quantized, [CARD], None, SPEC.engine)
    )
    assert serving.refusal("smol", formats.TABLE["merged"], [CARD], None, SPEC.engine) is None


def test_an_architecture_that_vllm_lacks_is_told_with_the_engine_that_may_have_it() -> None:
    said = "Value error, Model architectures ['OpenAIGPTLMHeadModel'] are not supported for now. Supported: dict_keys(["
    told = LAUNCHERS["vllm"].explained(said)
    assert told.startswith("Model architectures ['OpenAIGPTLMHeadModel'] are not supported; ")
    assert "`engine: transformers`" in told and "dict_keys" not in told
    assert LAUNCHERS["vllm"].explained("OutOfMemoryError: no") == "OutOfMemoryError: no"
