"""Further arguments of the server that answers, under vLLM's names; LF's `vllm_config` is a dict of them.

None: the server's own default. What names files, code or addresses of the server is none of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared import parsers
from shared.fields import Message, ObjectOrJson
from shared.nearest import did_you_mean
from shared.param import param
from shared.rules import rule
from shared.tongues import Text

FIELD = "vllm_config"
#: What vLLM quantizes while it loads, and how it may be told to read what is quantized already.
QUANTIZATIONS = (
    "fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "int8_per_channel_weight_only", "mxfp8",
    "bitsandbytes", "experts_int8", "awq", "awq_marlin", "gptq", "gptq_marlin", "compressed-tensors", "torchao",
)  # fmt: skip
CACHE_DTYPES = ("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2")
#: Names of vLLM's that are fields of the deployment itself.
OF_THE_DEPLOYMENT = (
    "dtype", "enable_lora", "enforce_eager", "gpu_memory_utilization", "max_cpu_loras", "max_lora_rank", "max_loras",
    "max_model_len", "max_num_seqs", "seed", "tensor_parallel_size", "trust_remote_code",
)  # fmt: skip
#: What LF's files give vLLM that has no effect on answers: logs, and where the Hub's files are kept.
PASSED_OVER = ("disable_log_requests", "disable_log_stats", "download_dir", "enable_log_requests", "swap_space")


def _vllm_config(value: dict[str, Any]) -> Message | None:
    """All that is known was gathered: what is left has no field."""
    if not value:
        return None
    known = names()
    name = sorted(value)[0]
    text = "has {name!r}: no argument of vLLM's that may be set here{near}"
    return Message(text, "unsupported", name=name[:200], near=did_you_mean(name, known))


@dataclass(frozen=True, kw_only=True)
class Server:
    tool_call_parser: str = param(
        parsers.AUTO, "Takes calls of functions out of answers; `auto`: what the chat template shows.",
        choices=parsers.TOOL_NAMES, source="vLLM", since=5,
    )  # fmt: skip
    tool_strict_level: str = param(
        "auto", "How strictly vLLM holds calls of functions to their form: `auto` as the request and its tools say "
        "(`strict`), `function` to the names, `parameter` to the schemas of the parameters.",
        choices=("auto", "function", "parameter"), source="vLLM", since=5,
        advice="parameter: small models else leave the schema.",
    )  # fmt: skip
    reasoning_parser: str = param(
        parsers.AUTO, "Takes thoughts out of answers; `auto`: what the chat template shows.",
        choices=parsers.REASONING_NAMES, source="vLLM", since=5,
    )  # fmt: skip
    quantization: str | None = param(
        None, "Quantize the weights while they are loaded, or read them so. Left out: as the model's files say.",
        type=str, choices=QUANTIZATIONS, source="vLLM", since=5,
    )  # fmt: skip
    kv_cache_dtype: str = param(
        "auto", "Number format of the cache of keys and values; `auto`: the model's.", choices=CACHE_DTYPES,
        source="vLLM", since=5, advice="fp8: twice as many tokens fit on a card that is fast at it.",
    )  # fmt: skip
    enable_prefix_caching: bool | None = param(
        None, "Keep what was computed of a prompt for others that begin alike. Left out: vLLM's choice, mostly on.",
        type=bool, source="vLLM", since=5,
    )  # fmt: skip
    enable_chunked_prefill: bool | None = param(
        None, "Read long prompts in pieces between the steps of other answers. Left out: vLLM's choice, mostly on.",
        type=bool, source="vLLM", since=5,
    )  # fmt: skip
    max_num_batched_tokens: int | None = param(
        None, "Tokens computed in one step. Left out: vLLM's own.", type=int, minimum=16, maximum=16_777_216,
        unit="tokens", source="vLLM", since=5,
    )  # fmt: skip
    block_size: int | None = param(
        None, "Tokens of one block of the cache. Left out: vLLM's own.", type=int, choices=(8, 16, 32, 64, 128),
        unit="tokens", source="vLLM", since=5,
    )  # fmt: skip
    kv_cache_memory_bytes: int | None = param(
        None, "Size of the cache on each card, instead of what gpu_memory_utilization leaves for it.", type=int,
        minimum=1_048_576, unit="bytes", source="vLLM", since=5,
    )  # fmt: skip
    pipeline_parallel_size: int = param(
        1, "Groups of devices that have the layers one after another; times tensor_parallel_size is what it takes.",
        minimum=1, maximum=64, source="vLLM", since=5,
    )  # fmt: skip
    enable_expert_parallel: bool = param(
        False, "Share experts among the devices whole, instead of a part of each.", source="vLLM", since=5
    )
    cpu_offload_gb: float = param(
        0.0, "Weights of each card that lie in the host's memory.", minimum=0.0, maximum=4096.0, unit="GiB",
        source="vLLM", since=5,
    )  # fmt: skip
    max_logprobs: int = param(
        128, "Most probabilities that are told of one token; beam search needs twice its beams.", minimum=0,
        maximum=1024, source="vLLM", since=5,
    )  # fmt: skip
    scheduling_policy: str = param(
        "fcfs", "Who is answered first: who came first, or who has the lowest `priority` in the request.",
        choices=("fcfs", "priority"), source="vLLM", since=5,
    )  # fmt: skip
    tokenizer_mode: str = param(
        "auto", "Which tokenizer is read.", choices=("auto", "hf", "mistral"), source="vLLM", since=5
    )
    stream_interval: int = param(
        1, "Tokens in one event of a stream.", minimum=1, maximum=1024, unit="tokens", source="vLLM", since=5
    )
    speculative_tokens: int | None = param(
        None, "Guess so many tokens at once from what the prompt says, where answers repeat it. Left out: none.",
        type=int, minimum=1, maximum=32, unit="tokens", source="ours", since=5,
    )  # fmt: skip
    vllm_config: dict[str, Any] = param(
        {}, "These arguments and those of the deployment as a dict with vLLM's names, as LF takes them.",
        field_class=ObjectOrJson, check=_vllm_config, since=5,
    )  # fmt: skip

    def said(self) -> list[str]:
        """Names of what is not as it is left out."""
        left_out = Server()
        names = [field.name for field in dataclasses.fields(self)]
        return [name for name in names if getattr(self, name) != getattr(left_out, name)]

    @rule("quantization")
    def bits_are_loaded_whole(self) -> str | None:
        if self.quantization != "bitsandbytes" or self.pipeline_parallel_size == 1:
            return None
        return Text("is bitsandbytes, which vLLM does not split by layers: leave pipeline_parallel_size out")


def names() -> list[str]:
    """What `vllm_config` may have."""
    own = [field.name for field in dataclasses.fields(Server) if field.name not in (FIELD, "speculative_tokens")]
    return [*own, *OF_THE_DEPLOYMENT]


def gathered(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body with what `vllm_config` has under names of its own, before what stands beside it, as in LF."""
    told = body.get(FIELD)
    if isinstance(told, str):
        told = _read(told)
    if not isinstance(told, dict):
        return dict(body)
    known = set(names())
    taken = {name: value for name, value in told.items() if name in known}
    left = {name: value for name, value in told.items() if name not in known and name not in PASSED_OVER}
    return {**body, **taken, FIELD: left}


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # the field says so
