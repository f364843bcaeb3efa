"""Arguments of vLLM's server for what a deployment says of it beyond the usual (shared/spec/deploy_server.py).

Pure, as shared/vllm_arguments.py, which is the whole command. What is vLLM's own default is left out of it.
"""

from __future__ import annotations

import json

from shared import parsers
from shared.spec.deploy_server import Server


def options(server: Server, *, on_gpus: bool, calls: str | None, thoughts: str | None) -> list[str]:
    """`calls` and `thoughts`: parsers that the chat template shows, where the deployment leaves the choice."""
    return [
        *_parsers(server, calls, thoughts),
        *_switch("enable-prefix-caching", server.enable_prefix_caching),
        *_switch("enable-chunked-prefill", server.enable_chunked_prefill),
        *_value("quantization", server.quantization),
        *_value("kv-cache-dtype", server.kv_cache_dtype, "auto"),
        *_value("max-num-batched-tokens", server.max_num_batched_tokens),
        *_value("block-size", server.block_size),
        *("--max-logprobs", str(server.max_logprobs)),
        *_value("scheduling-policy", server.scheduling_policy, "fcfs"),
        *_value("tokenizer-mode", server.tokenizer_mode, "auto"),
        *_value("stream-interval", server.stream_interval, 1),
        *_speculation(server.speculative_tokens),
        *(_of_cards(server) if on_gpus else ()),
    ]


def _parsers(server: Server, calls: str | None, thoughts: str | None) -> list[str]:
    for_calls = _chosen(server.tool_call_parser, calls)
    return [
        *(("--enable-auto-tool-choice", "--tool-call-parser", for_calls) if for_calls else ()),
        *(_value("tool-strict-level", server.tool_strict_level, "auto") if for_calls else ()),
        *_value("reasoning-parser", _chosen(server.reasoning_parser, thoughts)),
    ]


def _chosen(said: str, found: str | None) -> str | None:
    return {parsers.AUTO: found, parsers.NONE: None}.get(said, said)


def _speculation(tokens: int | None) -> list[str]:
    """By n-grams of the prompt: no second model, nothing to download."""
    if tokens is None:
        return []
    told = {"method": "ngram", "num_speculative_tokens": tokens, "prompt_lookup_max": 4}
    return ["--speculative-config", json.dumps(told)]


def _of_cards(server: Server) -> list[str]:
    return [
        *_value("kv-cache-memory-bytes", server.kv_cache_memory_bytes),
        *_value("pipeline-parallel-size", server.pipeline_parallel_size, 1),
        *(("--enable-expert-parallel",) if server.enable_expert_parallel else ()),
        *_value("cpu-offload-gb", server.cpu_offload_gb, 0.0),
    ]


def _value(name: str, value: object, default: object = None) -> list[str]:
    return [] if value is None or value == default else [f"--{name}", str(value)]


def _switch(name: str, value: bool | None) -> list[str]:
    return [] if value is None else [f"--{name}" if value else f"--no-{name}"]
