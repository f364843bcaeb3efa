"""What is compared: two settings, each one YAML for all three trainers, and the rows that they learn from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.demo import base

FACTS = Path(__file__).resolve().parents[2] / "gateway" / "demo" / "facts.jsonl"
#: Sentences of an answer of the longer rows, put together from the facts: 40 to 400 tokens, 200 on average.
SENTENCES = (1, 4, 2, 9, 5, 3, 12, 6)
NUM_ROWS = 400
DATASET = "bench-rows"


@dataclass(frozen=True, kw_only=True)
class Setting:
    name: str
    #: For the table.
    title: str
    rows: list[dict[str, str]]
    own: Mapping[str, Any]

    def config(self, model: str, steps: int) -> dict[str, Any]:
        """The YAML, in LLaMA Factory's words."""
        return {
            "model_name_or_path": model, "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": 8,
            "lora_target": "all", "dataset": DATASET, "template": "smollm2", "cutoff_len": 512,
            "overwrite_cache": True, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
            "learning_rate": 1e-4, "max_steps": steps, "lr_scheduler_type": "cosine", "logging_steps": 1,
            "save_strategy": "no", "report_to": "none", **self.own,
        }  # fmt: skip


def settings() -> list[Setting]:
    facts = [json.loads(line)["messages"] for line in FACTS.open()]
    short = [{"instruction": ask["content"], "input": "", "output": answer["content"]} for ask, answer in facts]
    return [
        Setting(name="unpacked", title="longer samples, not packed", rows=longer(short), own={"packing": False}),
        Setting(
            name="packed",
            title="short samples, packed",
            rows=(short * (NUM_ROWS // len(short) + 1))[:NUM_ROWS],
            own={"packing": True, "per_device_train_batch_size": 1},
        ),
    ]


def longer(short: list[dict[str, str]]) -> list[dict[str, str]]:
    """As long as those of Alpaca's demo data, and as different in length."""
    rows = []
    for place in range(NUM_ROWS):
        count = SENTENCES[place % len(SENTENCES)]
        parts = [short[(place * 7 + n) % len(short)] for n in range(count)]
        asked = " ".join(part["instruction"] for part in parts[:2])
        rows.append({"instruction": asked, "input": "", "output": " ".join(part["output"] for part in parts)})
    return rows


def write(folder: Path, setting: Setting) -> None:
    """Rows, and the file by which LLaMA Factory finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.json").write_text(json.dumps(setting.rows))
    (folder / "dataset_info.json").write_text(json.dumps({DATASET: {"file_name": "rows.json"}}))


def model_folder(home: Path) -> Path:
    return home / "import" / base.NAME
