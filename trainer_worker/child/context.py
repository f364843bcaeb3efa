"""What a rank knows of the training it takes part in. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.attempt import Attempt
from shared.spec import TrainSpec
from trainer_worker.child.startup import Startup

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Context:
    attempt: Attempt
    spec: TrainSpec
    rank: int
    num_processes: int
    device: torch.device
    #: How long it took until the first step.
    startup: Startup = field(default_factory=Startup)

    @property
    def run(self) -> Mapping[str, Any]:
        return self.attempt.run

    @property
    def scratch(self) -> Path:
        """Removed with the attempt."""
        return Path(self.run["scratch_dir"])

    @property
    def checkpoints(self) -> Path:
        return self.scratch / "checkpoints"

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def emit(self, type: str, message: str = "", level: str = "info", **data: Any) -> None:
        """Only the first rank speaks."""
        if self.is_first:
            self.attempt.emit(type, message, level, **data)
