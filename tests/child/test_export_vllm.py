"""vLLM's CPU build loads what the quantizers write, and thinks of rows what transformers thinks of the same files."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from export_worker.child import quantizers
from export_worker.child.quantizers import Quantization
from export_worker.child.source import Source
from export_worker.child.watch import Watch
from shared import formats
from tests.child.export_fixtures import Recorder, llama

ROWS = [[(7 * n * step) % 250 + 5 for step in range(1, 25)] for n in (1, 3)]
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    # One process, one import of vLLM for all folders.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
#: Formats of these libraries, with the widths of each, that vLLM serves on a CPU.
WRITTEN = [
    (name, bits)
    for name in ("bitsandbytes", "w4a16", "w8a8")
    for bits in formats.get(name).bits
    if formats.get(name).served.cpu  # type: ignore[union-attr]
]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_vllm_answers_from_every_format_as_transformers_does(inference_python: str, tmp_path: Path) -> None:
    base = llama(tmp_path / "base", hidden_size=128, intermediate_size=256, max_position_embeddings=256)
    folders = [write(base, tmp_path, name, bits) for name, bits in WRITTEN]
    assert len(folders) == 4

    told = ask(inference_python, folders, tmp_path)

    for folder in folders:
        for row, one in zip(ROWS, told[str(folder)], strict=True):
            apart = [abs(theirs - ours) for theirs, ours in zip(one["nats"], nats(folder, row), strict=True)]
            # Both compute in bfloat16, where the worst of 23 tokens is 0.3 apart; files read wrongly are by several.
            assert sum(apart) / len(apart) < 0.2, (folder.name, apart)
            assert len(one["answer"]) == 8


def write(base: Path, where: Path, name: str, bits: int) -> Path:
    """Without texts: what is read back is the format, not how its numbers were chosen."""
    out = where / f"{name}-{bits}"
    out.mkdir()
    given: dict[str, Any] = {"num_bits": bits, "samples": [], "max_shard_gb": 5, "watch": Watch(Recorder())}
    quantizers.quantize(name, Quantization(source=Source(model=base), model=base, out=out, **given))
    for file in base.glob("*token*"):
        (out / file.name).write_bytes(file.read_bytes())
    return out


def ask(python: str, folders: list[Path], where: Path) -> dict[str, list[dict[str, Any]]]:
    asked, told = where / "asked.json", where / "told.json"
    asked.write_text(json.dumps({"folders": [str(folder) for folder in folders], "rows": ROWS}))
    script = Path(__file__).parent / "ask_vllm.py"
    done = subprocess.run(
        [python, str(script), str(asked), str(told)], env=os.environ | ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[dict[str, Any]]] = json.loads(told.read_text())
    return found


@torch.inference_mode()
def nats(folder: Path, row: list[int]) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    logits = model(torch.tensor([row])).logits[0, :-1].float()  # (tokens - 1, vocabulary)
    found: list[float] = torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]), reduction="none").tolist()
    return found
