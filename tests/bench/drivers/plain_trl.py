"""`python plain_trl.py CONFIG.yaml STEPS.json`: the same YAML with TRL's SFTTrainer, as its documentation shows it.

What the YAML does not say stays as TRL has it (recomputing activations among it); the weights are taken as stored, as
the other trainers take them. Rows become prompt and completion, whose loss alone TRL learns.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def rows(path: Path) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": "\n".join(filter(None, (row["instruction"], row.get("input"))))}],
            "completion": [{"role": "assistant", "content": row["output"]}],
        }
        for row in json.loads(path.read_text())
    ]


def main(config: Path, steps: Path) -> None:
    import yaml
    from counting import watched
    from datasets import Dataset
    from peft import LoraConfig
    from torch.cuda import is_available
    from trl import SFTConfig, SFTTrainer

    given = yaml.safe_load(config.read_text())
    same = ("per_device_train_batch_size", "gradient_accumulation_steps", "max_steps", "logging_steps", "output_dir")
    arguments = SFTConfig(
        **{name: given[name] for name in same},
        learning_rate=float(given["learning_rate"]),
        lr_scheduler_type=given["lr_scheduler_type"],
        max_length=given["cutoff_len"],
        packing=given["packing"],
        model_init_kwargs={"dtype": "auto"},
        save_strategy="no",
        report_to="none",
        use_cpu=not is_available(),
        bf16=is_available(),
    )
    rank = given["lora_rank"]
    adapter = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    data = Dataset.from_list(rows(Path(given["dataset_dir"]) / "rows.json"))
    trainer = SFTTrainer(
        given["model_name_or_path"], args=arguments, train_dataset=data, peft_config=adapter, callbacks=[watched(steps)]
    )
    trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
