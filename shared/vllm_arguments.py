"""How vLLM is started: argv and environment as pure functions of a deployment's spec, its model and the machine.

The module is run, never the `vllm serve` command: the CPU build's distribution has another name, and the command dies
looking for its own. Nothing secret is on the command line, which every user of the machine can read.
Here and not with the inference worker, because an export is proven with the very command that will serve it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import InvalidSpec
from shared.spec import DeploySpec

#: What `--max-lora-rank` takes.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
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
    #: Jinja file that replaces the model's own chat template.
    chat_template: Path | None = None
    #: Folder whose generation_config.json replaces the model's own: where an adapter was taught to end.
    generation: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the replica gets of this machine."""

    #: GPU UUIDs; empty: it runs on the CPU.
    gpus: Sequence[str] = ()
    #: Memory of the KV cache on a CPU, GiB.
    cpu_kv_cache_gib: int = 1
    #: Where vLLM keeps what it compiled.
    cache_folder: Path


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
        *_names(spec, files, served_name),
        *(_on_gpus(spec, machine) if machine.gpus else ("--enforce-eager",)),
        *(("--max-num-seqs", str(spec.max_num_seqs)) if spec.max_num_seqs is not None else ()),
        *(("--chat-template", str(files.chat_template)) if files.chat_template else ()),
        *_thinking(spec),
        *(("--generation-config", str(files.generation)) if files.generation else ()),
        *(("--trust-remote-code",) if spec.trust_remote_code else ()),
    ]


def _thinking(spec: DeploySpec) -> tuple[str, ...]:
    """What chat templates are told where a request says nothing."""
    told = {"enable_thinking": spec.enable_thinking, "preserve_thinking": spec.preserve_thinking}
    said = {name: value for name, value in told.items() if value is not None}
    return ("--default-chat-template-kwargs", json.dumps(said)) if said else ()


def env(files: Files, machine: Machine, *, api_key: str) -> dict[str, str]:
    """What the replica's environment has beside the allow-list."""
    variables = {
        "VLLM_API_KEY": api_key,
        "VLLM_CACHE_ROOT": str(machine.cache_folder),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if files.model.startswith("/"):
        # It lies in a folder: whatever asks the Hub for more would only wait.
        variables["HF_HUB_OFFLINE"] = "1"
    if machine.gpus:
        return variables | {"CUDA_VISIBLE_DEVICES": ",".join(machine.gpus)}
    return variables | {"VLLM_CPU_KVCACHE_SPACE": str(machine.cpu_kv_cache_gib)}


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


def max_lora_rank(spec: DeploySpec, rank: int) -> int:
    """The spec's, raised to what this adapter needs."""
    needed = next((allowed for allowed in LORA_RANKS if allowed >= rank), None)
    if needed is None:
        text = "the adapter has rank {rank}: vLLM serves up to {most}; merge it"
        raise InvalidSpec(text, field="model", rank=rank, most=LORA_RANKS[-1])
    return max(spec.vllm_max_lora_rank, needed)


def base_name(served_name: str) -> str:
    """The name of the base model beside an adapter. No client gets there: rows of a base and of an adapter in one
    batch are answered wrongly by vLLM's CPU kernels, so a replica serves one of the two."""
    return f"base-of:{served_name}"


def _names(spec: DeploySpec, files: Files, served_name: str) -> list[str]:
    if files.adapter is None:
        return ["--served-model-name", served_name]
    # JSON: in the form name=path a name could hold no comma and no equals sign.
    module = json.dumps({"name": served_name, "path": str(files.adapter)})
    rank = max_lora_rank(spec, files.adapter_rank)
    return [
        *("--served-model-name", base_name(served_name)),
        *("--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", module),
    ]


def _on_gpus(spec: DeploySpec, machine: Machine) -> list[str]:
    return [
        *("--gpu-memory-utilization", str(spec.gpu_memory_utilization)),
        *("--tensor-parallel-size", str(spec.tensor_parallel_size)),
        *(("--enforce-eager",) if spec.enforce_eager else ()),
    ]
