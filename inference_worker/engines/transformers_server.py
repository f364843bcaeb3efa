"""Plain transformers: our own server in inference_worker/child, with options named like vLLM's."""

from __future__ import annotations

import json

from shared import vllm_arguments
from shared.spec import DeploySpec
from shared.vllm_arguments import Address, Files, Machine

MODULE = "inference_worker.child.transformers_server"
#: Answers computed together where the deployment does not say; the memory for their caches sets the limit first.
NUM_SEQS = 32


def argv(
    python: str, spec: DeploySpec, files: Files, machine: Machine, *, served_name: str, address: Address
) -> list[str]:
    """The command of one replica that answers to `served_name`."""
    return [
        *(python, "-m", MODULE),
        *("--model", files.model),
        *("--host", address.host, "--port", str(address.port)),
        *("--dtype", vllm_arguments.dtype(spec, machine)),
        *("--max-model-len", str(vllm_arguments.max_model_len(spec, files))),
        *("--max-num-seqs", str(spec.max_num_seqs or NUM_SEQS)),
        *("--max-lora-rank", str(vllm_arguments.max_lora_rank(spec, files.adapter_rank))),
        *("--seed", str(spec.seed)),
        *("--kv-cache-gib", str(machine.cpu_kv_cache_gib)),
        *("--gpu-memory-utilization", str(spec.gpu_memory_utilization)),
        *("--tensor-parallel-size", str(spec.tensor_parallel_size)),
        *_names(files, served_name),
        *(("--chat-template", str(files.chat_template)) if files.chat_template else ()),
        *vllm_arguments.thinking(spec),
        *(("--generation-config", str(files.generation)) if files.generation else ()),
        *(("--trust-remote-code",) if spec.trust_remote_code else ()),
    ]


def env(files: Files, machine: Machine, *, api_key: str) -> dict[str, str]:
    """What the replica's environment has beside the allow-list."""
    variables = {"REPLICA_API_KEY": api_key}
    if files.model.startswith("/"):
        # It lies in a folder: whatever asks the Hub for more would only wait.
        variables["HF_HUB_OFFLINE"] = "1"
    # No card that is not the replica's, on a machine without one least of all.
    return variables | {"CUDA_VISIBLE_DEVICES": ",".join(machine.gpus)}


def _names(files: Files, served_name: str) -> tuple[str, ...]:
    if files.adapter is None:
        return ("--served-model-name", served_name)
    # Rows of a base and of its adapters are computed together on every device.
    base = files.base_name if files.base_name not in (None, served_name) else f"base-of:{served_name}"
    module = json.dumps({"name": served_name, "path": str(files.adapter)})
    return ("--served-model-name", str(base), "--lora-modules", module)


def explained(why: str) -> str:
    """What its log says: there is no engine beside it to name."""
    return why
