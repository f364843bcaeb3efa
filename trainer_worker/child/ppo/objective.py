"""What stage ppo carries from step to step beside the model: values, the weight of the penalty, the scores so far."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from trainer_worker.child.ppo.equations import Penalty, Running

HEAD, STATE = "value_head.safetensors", "ppo.json"


class Carried:
    """Saved in checkpoints only: a published model answers, it does not judge itself."""

    def __init__(self, hidden_size: int, device: torch.device, target: float):
        # From zero: at first the advantages are the rewards themselves.
        self.head = torch.nn.Linear(hidden_size, 1, device=device, dtype=torch.float32)
        for weight in self.head.parameters():
            torch.nn.init.zeros_(weight)
        self.penalty = Penalty(target)
        self.scores = Running()

    def save(self, folder: Path) -> None:
        save_file(self.head.state_dict(), folder / HEAD)
        scores = self.scores
        state = {
            "coefficient": self.penalty.coefficient,
            "scores": {"count": scores.count, "mean": scores.mean, "squares": scores.squares},
        }
        (folder / STATE).write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        self.head.load_state_dict(load_file(folder / HEAD))
        state = json.loads((folder / STATE).read_text())
        self.penalty.coefficient = state["coefficient"]
        self.scores.count, self.scores.mean, self.scores.squares = (
            state["scores"][name] for name in ("count", "mean", "squares")
        )
