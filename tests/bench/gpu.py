"""`make bench ARGS=--gpu`: 8B-shaped models of random weights on one GPU, LoRA and full, samples of 4,096 tokens.

Tokens/s and MFU are the job's own measures; the memory that the device held at most is put beside the plan's estimate
of the same YAML. Weights are random (`train_from_scratch`): speed and memory do not ask what they say. Without a GPU
nothing is run, and the page says so.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from gateway.cli.client import Client, follow
from gateway.demo.platform import Platform
from shared import gpus
from shared.settings import Settings
from tests.bench.settings import model_folder
from tests.bench.sides import BenchFailed

NAME = "bench-8b-shape"
#: Llama 3.1 8B's, with the words of the small model's tokenizer.
SHAPE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"finetuning_type": "lora", "lora_rank": 16, "bf16": True},
    "full": {"finetuning_type": "full", "pure_bf16": True, "optim": "adamw_8bit"},
}
TOKENS = 4096
NO_GPU = "Not run: this machine has no GPU."
COLUMNS = ("Method", "tokens/s", "MFU", "memory, GiB", "plan's estimate, GiB", "estimate / measured")


def run(console: Console) -> str:
    """The part of the page."""
    cards = gpus.query("name")
    if not cards:
        console.print(NO_GPU)
        return NO_GPU
    settings = Settings.from_env()
    make_model(settings)
    platform = Platform(settings)
    try:
        with platform.ensure() as client:
            return f"{cards[0][0]}, {SHAPE['num_hidden_layers']} layers as Llama 3.1 8B\n\n" + "\n".join(table(client))
    finally:
        if platform.is_ours:
            platform.stop()


def make_model(settings: Settings) -> None:
    """A folder with a configuration, a tokenizer and no weights."""
    folder = settings.home / "import" / NAME
    shutil.copytree(
        model_folder(settings.home), folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True
    )
    (folder / "config.json").write_text(json.dumps(SHAPE))


def table(client: Client) -> Iterator[str]:
    upload(client)
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for method in METHODS:
        body = config(method)
        estimate = estimated(client, body)
        made = train(client, body)
        used = made["peak_memory_bytes"] / 2**30
        cells = (f"{made['tokens_per_second']:.0f}", f"{made.get('mfu', 0.0):.1%}", f"{used:.1f}", f"{estimate:.1f}")
        yield f"| {method} | {' | '.join(cells)} | {estimate / used:.2f} |"


def estimated(client: Client, body: dict[str, Any]) -> float:
    """GiB of the card."""
    plan = client.post("/v1/plans", body | {"config": SHAPE, "gpus": {"kind": gpus.query("name")[0][0], "count": 1}})
    return float(plan["memory"]["per_gpu_gib"]["total"])


def config(method: str) -> dict[str, Any]:
    return {
        "model_name_or_path": NAME, "stage": "sft", "dataset": NAME, "template": "smollm2", "train_from_scratch": True,
        "cutoff_len": TOKENS, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": 8,
        "logging_steps": 1, "learning_rate": 1e-5, "save_strategy": "no", "flash_attn": "auto",
        "enable_liger_kernel": True, **METHODS[method],
    }  # fmt: skip


def upload(client: Client) -> None:
    """Samples that are all longer than a row takes: each is cut to its length."""
    text = " ".join(str(number) for number in range(3000))
    rows = [{"instruction": f"Count from {start}.", "output": f"{start} {text}"} for start in range(64)]
    with TemporaryDirectory(prefix="tunesmith-bench-") as folder:
        path = Path(folder) / "rows.json"
        path.write_text(json.dumps(rows))
        client.upload("/v1/datasets", path, {"name": NAME})


def train(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    job = client.post("/v1/jobs", body)
    for _ in follow(client, job["id"]):
        pass
    done = client.get(f"/v1/jobs/{job['id']}")
    if done["status"] != "succeeded":
        raise BenchFailed(f"{done['id']} is {done['status']}: {(done.get('error') or {}).get('message')}")
    metrics: dict[str, Any] = done["result"]["metrics"]
    return metrics
