"""How vLLM is started: argv and environment as pure functions of a deployment's spec, its model and the machine.

The module is run, never the `vllm serve` command: the CPU build's distribution has another name, and the command dies
looking for its own. Nothing secret is on the command line, which every user of the machine can read.
Here and not with the inference worker, because an export is proven with the very command that will serve it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import InvalidSpec
from shared.spec import DeploySpec
from shared.vllm_options import options

#: What `--max-lora-rank` takes.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
#: Architectures of dense models that vLLM 0.32 puts adapters on, on every backend. Of others (mixtures of experts, some
#: with vision) some are refused at the start: there a deployment takes adapters where it says `enable_lora`.
TAKE_ADAPTERS = frozenset(
    f"{name}ForCausalLM"
    for name in (
        *("Apertus", "Cohere", "Cohere2", "Exaone", "Exaone4", "Gemma", "Gemma2", "Gemma3", "Glm4", "Granite"),
        *("InternLM2", "InternLM3", "Llama", "MiniCPM", "Mistral", "Nemotron", "OPT", "Phi3", "Qwen2", "Qwen3"),
        *("Solar", "TeleChat3"),
    )
)
#: Above it vLLM refuses adapters of the output layer, and with them the start.
MAX_VOCABULARY = 258_048
#: Names under which configs tell how many positions a model has.
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")


@dataclass(frozen=True, kw_only=True)
class Files:
    """What is served, as it lies on this machine."""

    #: Folder of the model, or its Hub id; the base model's where an adapter is served.
    model: str
    #: Of shared/formats, as its record says; None: not known.
    format: str | None = None
    #: Bits of a weight, where its record says them.
    num_bits: int | None = None
    #: Longest prompt and answer that the model's config allows, tokens; None where it does not say.
    context_length: int | None = None
    #: Folder and rank of the LoRA adapter, when one is served unmerged.
    adapter: Path | None = None
    adapter_rank: int = 0
    #: Its base's name in the catalog.
    base_name: str | None = None
    #: Whether vLLM is known to put adapters on it without answering more slowly (see `takes_adapters`).
    adaptable: bool = False
    #: Jinja file that replaces the model's own chat template.
    chat_template: Path | None = None
    #: vLLM's parsers of calls and thoughts that the chat template shows (shared/parsers.py).
    calls: str | None = None
    thoughts: str | None = None
    #: Folder whose generation_config.json replaces the model's own: where an adapter was taught to end.
    generation: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Watching:
    """What a replica tells of each request, beside its answer and its metrics."""

    #: Where its spans are sent (OTLP over HTTP), with which headers; empty: nowhere.
    traces_url: str = ""
    traces_headers: str = field(default="", repr=False)
    #: The span of its start.
    traceparent: str = ""
    #: Whether its log has a line for each request: id and parameters, not what it says.
    logs_requests: bool = False


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the replica gets of this machine."""

    #: GPU UUIDs; empty: it runs on the CPU.
    gpus: Sequence[str] = ()
    #: Memory of the KV cache on a CPU, GiB.
    cpu_kv_cache_gib: int = 1
    #: Whether the Python that runs vLLM has our kernels for adapters on CPUs (inference_worker/child/lora).
    has_cpu_kernels: bool = False
    #: Where vLLM keeps what it compiled.
    cache_folder: Path
    watching: Watching = field(default_factory=Watching)

    @property
    def mixes_adapters(self) -> bool:
        """Whether requests for a base and for its adapters may be computed together: vLLM's own kernels for CPUs answer
        such requests wrongly."""
        return bool(self.gpus) or self.has_cpu_kernels


@dataclass(frozen=True, kw_only=True)
class Address:
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def argv(
    python: str, spec: DeploySpec, files: Files, machine: Machine, *, served_name: str, address: Address
) -> list[str]:
    """The command of one replica that answers to `served_name`."""
    return [
        *(python, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", files.model),
        *("--host", address.host, "--port", str(address.port)),
        *("--dtype", dtype(spec, machine)),
        *("--max-model-len", str(max_model_len(spec, files))),
        *("--seed", str(spec.seed)),
        # Nobody reads them: the gateway logs requests, the API has its own docs.
        *("--disable-uvicorn-access-log", "--disable-fastapi-docs"),
        *_names(spec, files, machine, served_name),
        *_adapters(spec, files, machine),
        *(_on_gpus(spec, machine) if machine.gpus else ("--enforce-eager",)),
        *(("--max-num-seqs", str(spec.max_num_seqs)) if spec.max_num_seqs is not None else ()),
        *(("--chat-template", str(files.chat_template)) if files.chat_template else ()),
        *thinking(spec),
        *options(spec.server, on_gpus=bool(machine.gpus), calls=files.calls, thoughts=files.thoughts),
        *(("--generation-config", str(files.generation)) if files.generation else ()),
        *(("--trust-remote-code",) if spec.trust_remote_code else ()),
        *(("--otlp-traces-endpoint", machine.watching.traces_url) if machine.watching.traces_url else ()),
        *(("--enable-log-requests",) if machine.watching.logs_requests else ()),
    ]


def thinking(spec: DeploySpec) -> tuple[str, ...]:
    """What chat templates are told where a request says nothing."""
    told = {"enable_thinking": spec.enable_thinking, "preserve_thinking": spec.preserve_thinking}
    said = {name: value for name, value in told.items() if value is not None}
    return ("--default-chat-template-kwargs", json.dumps(said)) if said else ()


def env(files: Files, machine: Machine, *, api_key: str) -> dict[str, str]:
    """What the replica's environment has beside the allow-list."""
    variables = {
        "VLLM_API_KEY": api_key,
        # Routes that load adapters, where there are any: they ask for the key, and no gateway passes them on.
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CACHE_ROOT": str(machine.cache_folder),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        **_traced(machine.watching),
    }
    if files.model.startswith("/"):
        # It lies in a folder: whatever asks the Hub for more would only wait.
        variables["HF_HUB_OFFLINE"] = "1"
    if machine.gpus:
        return variables | {"CUDA_VISIBLE_DEVICES": ",".join(machine.gpus)}
    # Only small functions of the sampler would be compiled, in the middle of an answer: the first request for logprobs
    # held up all others of the replica for 12 to 54 s, and that with another number of sequences once more.
    variables["TORCH_COMPILE_DISABLE"] = "1"
    return variables | {"VLLM_CPU_KVCACHE_SPACE": str(machine.cpu_kv_cache_gib)}


def _traced(watching: Watching) -> dict[str, str]:
    """OpenTelemetry's own variables; vLLM takes only the address as an option."""
    if not watching.traces_url:
        return {}
    variables = {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": "tunesmith-replica",
        "OTEL_EXPORTER_OTLP_HEADERS": watching.traces_headers,
        "TRACEPARENT": watching.traceparent,
    }
    return {name: value for name, value in variables.items() if value}


def dtype(spec: DeploySpec, machine: Machine) -> str:
    """On a CPU `auto` means bfloat16: vLLM's own choice there follows the checkpoint, and float32 is 3 times slower."""
    return spec.dtype if machine.gpus or spec.dtype != "auto" else "bfloat16"


def max_model_len(spec: DeploySpec, files: Files) -> int:
    """What was asked for, but no more than the model has positions for: vLLM would refuse to start."""
    return min(spec.max_model_len, files.context_length or spec.max_model_len)


def context_length(folder: Path) -> int | None:
    """What config.json says; None when it is elsewhere or says nothing. Multimodal models say it of their text part."""
    if not (folder / "config.json").is_file():
        return None
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config.get("text_config") or {}):
        for key in CONTEXT_KEYS:
            if isinstance(value := part.get(key), int):
                return value
    return None


def adaptable(folder: Path) -> bool:
    """Whether vLLM is known to put adapters on the model of a folder. What lies elsewhere is not known."""
    if not (folder / "config.json").is_file():
        return False
    return adapts(json.loads((folder / "config.json").read_text()))


def adapts(config: Mapping[str, Any]) -> bool:
    """By its config.json, as far as that is known."""
    if config.get("quantization_config") or (config.get("vocab_size") or 0) > MAX_VOCABULARY:
        return False
    return bool(set(config.get("architectures") or ()) & TAKE_ADAPTERS)


def takes_adapters(spec: DeploySpec, files: Files, machine: Machine) -> bool:
    """Whether adapters can be loaded onto the replica while it answers. Raises InvalidSpec when it must and cannot."""
    wanted = spec.adapters.enable_lora
    if wanted and not machine.mixes_adapters:
        text = (
            "is true, but vLLM's own CPU kernels answer a base beside its adapters wrongly, and the Python that runs "
            "vLLM lacks the package tunesmith, which brings right ones: install it there, or leave enable_lora out"
        )
        raise InvalidSpec(text, field="enable_lora")
    return machine.mixes_adapters and (files.adaptable if wanted is None else wanted)


def max_lora_rank(spec: DeploySpec, rank: int) -> int:
    """The spec's, raised to what this adapter needs."""
    needed = next((allowed for allowed in LORA_RANKS if allowed >= rank), None)
    if needed is None:
        text = "the adapter has rank {rank}: vLLM serves up to {most}; merge it"
        raise InvalidSpec(text, field="model", rank=rank, most=LORA_RANKS[-1])
    return max(spec.vllm_max_lora_rank, needed)


def base_name(files: Files, machine: Machine, served_name: str) -> str:
    """The name of the base beside an adapter that answers to `served_name`: its own, where both may be asked."""
    if machine.mixes_adapters and files.base_name not in (None, served_name):
        return str(files.base_name)
    # No client gets there.
    return f"base-of:{served_name}"


def _names(spec: DeploySpec, files: Files, machine: Machine, served_name: str) -> list[str]:
    if files.adapter is None:
        return ["--served-model-name", served_name]
    # JSON: in the form name=path a name could hold no comma and no equals sign.
    module = json.dumps({"name": served_name, "path": str(files.adapter)})
    return ["--served-model-name", base_name(files, machine, served_name), "--lora-modules", module]


def _adapters(spec: DeploySpec, files: Files, machine: Machine) -> list[str]:
    others = takes_adapters(spec, files, machine)
    if files.adapter is None and not others:
        return []
    counts = (spec.adapters.max_loras, spec.adapters.max_cpu_loras) if others else (1, 1)
    return [
        *("--enable-lora", "--max-lora-rank", str(max_lora_rank(spec, files.adapter_rank))),
        *("--max-loras", str(counts[0]), "--max-cpu-loras", str(counts[1])),
        # Requests to an adapter carry the one that it was trained with; gateways take none from clients.
        *(("--trust-request-chat-template",) if others else ()),
    ]


def _on_gpus(spec: DeploySpec, machine: Machine) -> list[str]:
    return [
        *("--gpu-memory-utilization", str(spec.gpu_memory_utilization)),
        *("--tensor-parallel-size", str(spec.tensor_parallel_size)),
        *(("--enforce-eager",) if spec.enforce_eager else ()),
    ]
