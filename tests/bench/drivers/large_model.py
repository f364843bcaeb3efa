"""`python large_model.py SMALL OUT GB`: a Llama of random bfloat16 weights, at least so many gigabytes, with the small
model's tokenizer, and a LoRA of every linear layer (rank 16), written tensor by tensor: OUT/base and OUT/adapter."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from export_worker.child import carry, shards
from export_worker.child.shards import Entry

WIDTH, INNER, RANK = 2048, 5632, 16
FILE_BYTES = 2 * 10**9
#: Random numbers that the weights are made of.
POOL = 2**22


def main(small: Path, out: Path, gigabytes: float) -> None:
    torch.manual_seed(0)
    words = len(AutoTokenizer.from_pretrained(small))
    per_layer = 2 * (4 * WIDTH**2 + 3 * WIDTH * INNER)  # bytes
    layers = int((gigabytes * 1e9 - 4 * words * WIDTH) / per_layer) + 1
    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=layers, num_attention_heads=16,
        num_key_value_heads=16, vocab_size=words, tie_word_embeddings=False, dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    for folder in (out / "base", out / "adapter"):
        folder.mkdir(parents=True)
    config.save_pretrained(out / "base")
    carry.copy(small, out / "base", carry.TOKENIZER)
    shutil.copyfile(small / "generation_config.json", out / "base" / "generation_config.json")
    with torch.device("meta"):
        weights = {name: tuple(weight.shape) for name, weight in LlamaForCausalLM(config).state_dict().items()}
    write(out / "base", weights, "BF16", FILE_BYTES)
    write_adapter(out / "adapter", weights)


def write_adapter(folder: Path, weights: dict[str, tuple[int, ...]]) -> None:
    matrices = {name: shape for name, shape in weights.items() if ".layers." in name and len(shape) == 2}
    factors = {}
    for name, (rows, columns) in matrices.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        factors[f"{module}.lora_A.weight"] = (RANK, columns)
        factors[f"{module}.lora_B.weight"] = (rows, RANK)
    write(folder, factors, "F32", 10**12)
    (folder / shards.SINGLE).rename(folder / "adapter_model.safetensors")
    targets = sorted({name.split(".")[-2] for name in matrices})
    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(told))


def write(folder: Path, shapes: dict[str, tuple[int, ...]], dtype: str, max_bytes: int) -> None:
    kind = shards.DTYPES[dtype]
    entries = [
        Entry(name=name, dtype=dtype, shape=shape, file=folder, offset=0, num_bytes=size(shape) * kind.itemsize)
        for name, shape in shapes.items()
    ]
    places = shards.lay_out(entries, folder, max_bytes)
    # One draw for all, from another place each: the draws would take longer than the merge.
    pool = (torch.randn(POOL) * 0.02).to(kind)
    for number, entry in enumerate(entries):
        count = size(entry.shape)
        values = pool.roll(7919 * number).repeat(count // POOL + 1)[:count]
        shards.write(values, places[entry.name])


def size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
