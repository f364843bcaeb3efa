"""PiSSA: adapters that start from each matrix's principal singular vectors, published as plain LoRA.

While it is trained, W is replaced by W - s B0 A0, so the adapter alone would fit no model that anybody has. What is
published is the difference s (B A - B0 A0) = s [B, -B0] [A; A0], a plain adapter of twice the rank for the untouched W
(arXiv 2404.02948, appendix on conversion). Checkpoints keep the trained factors: training goes on from those.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
#: Where the factors of the beginning are kept, below the scratch folder.
FOLDER = "pissa-start"


def init_name(num_iterations: int) -> str:
    """peft's name of the initialisation; -1: the exact decomposition."""
    return "pissa" if num_iterations == -1 else f"pissa_niter_{num_iterations}"


def remember(model: PeftModel, folder: Path) -> None:
    """Write the factors of the beginning, before they are trained or rounded."""
    model.save_pretrained(str(folder), save_embedding_layers=False)


def convert(output: Path, start: Path) -> None:
    """Make the adapter that was saved in `output` a plain one."""
    trained, begun = load_file(output / WEIGHTS), load_file(start / WEIGHTS)
    save_file(
        {name: _joined(name, weight, begun) for name, weight in trained.items()}, output / WEIGHTS, {"format": "pt"}
    )
    config = json.loads((output / CONFIG).read_text())
    (output / CONFIG).write_text(json.dumps(config | _doubled(config), indent=2))


def _joined(name: str, weight: torch.Tensor, begun: dict[str, torch.Tensor]) -> torch.Tensor:
    if "lora_A" in name:
        return torch.cat([weight, begun[name].to(weight.dtype)], dim=0).contiguous()  # 2r in
    if "lora_B" in name:
        return torch.cat([weight, -begun[name].to(weight.dtype)], dim=1).contiguous()  # out 2r
    return weight


def _doubled(config: dict[str, Any]) -> dict[str, Any]:
    """Twice the rank at the same scale: alpha / r, or alpha / sqrt(r) when it is rank-stabilised."""
    factor = math.sqrt(2) if config.get("use_rslora") else 2
    return {"r": 2 * config["r"], "lora_alpha": factor * config["lora_alpha"], "init_lora_weights": True}
