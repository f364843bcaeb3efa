"""vLLM on a CPU answers rows of a base and of several adapters in one batch, each as transformers and peft do alone."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from shared.vllm_arguments import TAKE_ADAPTERS
from tests.child.export_fixtures import llama, lora

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
#: By name: rank and what it is on. `head` changes the output layer and the embeddings, too.
ADAPTERS: dict[str, dict[str, Any]] = {
    "small": {"r": 4, "targets": ["q_proj", "v_proj"]},
    "large": {"r": 40, "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
    "half": {"r": 16, "targets": ["up_proj", "down_proj"]},
    "head": {"r": 8, "targets": ["lm_head", "embed_tokens", "o_proj"]},
}
#: Two of them in a batch and two in memory: of four, some are read again and again.
LORA = {"max_loras": 2, "max_cpu_loras": 2, "max_lora_rank": 64}
Row = tuple[str | None, list[int]]


def row(name: str | None, seed: int, length: int = 24) -> Row:
    return name, [(7 * seed * step) % 250 + 5 for step in range(1, length + 1)]


#: The first adapter takes the slot that held one of vLLM's warm-up; rows of one adapter stand apart, or are more
#: than are computed at once; at last all of them after all of them.
BATCHES = [
    [row("small", 1)],
    [row(None, 1), row("small", 3), row(None, 3), row("large", 1), row("small", 1), row("large", 5, 90)],
    [row(None, 1)],
    [*(row(name, seed) for seed in (1, 3) for name in ADAPTERS), row(None, 5, 90)],
    [row("small", 1)],
]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rows_of_a_base_and_of_its_adapters_share_a_batch(inference_python: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 256}
    base = llama(tmp_path / "base", dtype=torch.float32, **sizes)
    folders = {
        name: str(lora(base, tmp_path / name, seed=seed, **config))
        for seed, (name, config) in enumerate(ADAPTERS.items())
    }

    order = {"model": str(base), "adapters": folders, "lora": LORA, "batches": BATCHES}
    told = ask(inference_python, order | {"architectures": sorted(TAKE_ADAPTERS)}, tmp_path)

    assert told["refused"] == []
    assert told["platform"] == "inference_worker.child.lora.platform.AdaptingCpuPlatform", "run make setup again"
    alone = {name: Alone(base, folders.get(name)) for name in (None, *ADAPTERS)}
    for batch, answers in zip(BATCHES, told["batches"], strict=True):
        for (name, ids), one in zip(batch, answers, strict=True):
            assert one["answer"] == alone[name].answer(ids, len(one["answer"])), name
            # vLLM takes a prompt's logits without the part of an adapter that is on the output layer.
            if name != "head":
                assert one["nats"] == pytest.approx(alone[name].nats(ids), abs=2e-4), name
    answers = {str(alone[name].answer(BATCHES[0][0][1], 10)) for name in alone}
    assert len(answers) == len(alone), "adapters that answer alike would prove nothing"


def ask(python: str, order: dict[str, Any], where: Path) -> dict[str, Any]:
    asked, told = where / "asked.json", where / "told.json"
    asked.write_text(json.dumps(order))
    script = Path(__file__).parent / "ask_vllm_adapters.py"
    done = subprocess.run(
        [python, str(script), str(asked), str(told)], env=os.environ | ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(told.read_text())
    return found


class Alone:
    """Transformers with one adapter or none."""

    def __init__(self, base: Path, adapter: str | None):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        self._model = PeftModel.from_pretrained(model, adapter).eval() if adapter else model.eval()

    @torch.inference_mode()
    def nats(self, ids: list[int]) -> list[float]:
        logits = self._model(input_ids=torch.tensor([ids])).logits[0, :-1]  # (tokens - 1, vocabulary)
        found: list[float] = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").tolist()
        return found

    @torch.inference_mode()
    def answer(self, ids: list[int], num_tokens: int) -> list[int]:
        told = list(ids)
        for _ in range(num_tokens):
            told.append(int(self._model(input_ids=torch.tensor([told])).logits[0, -1].argmax()))
        return told[len(ids) :]
