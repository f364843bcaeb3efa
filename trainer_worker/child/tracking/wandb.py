"""Weights & Biases: the run's id is the job's, so that a later attempt goes on with it. Nothing of the machine is
sent.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping

import wandb

from trainer_worker.child.tracking.run import CRASHED, TrackedRun, named

#: How long the server may take to answer at first.
START_SECONDS = 30.0


class WeightsAndBiases:
    def __init__(self, run: TrackedRun):
        self._kept, is_online = run.kept, run.given.wandb_mode == "online"
        self._run = wandb.init(
            project=run.given.project,
            name=run.name,
            id=run.job_id,
            resume="allow",
            mode="online" if is_online else "offline",
            dir=run.scratch if is_online else run.kept,
            tags=list(run.tags) or None,
            config=dict(run.config),
            settings=settings(),
        )
        self.url = self._run.url if is_online else None
        #: Files are new in every attempt; a run on the server knows where it was.
        self.last_step = self._run.starting_step - 1 if is_online else -1

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(named(values), step=step)

    def close(self, ending: str) -> None:
        self._run.finish(exit_code=1 if ending == CRASHED else 0)
        # Its own logs tell of the machine, and nobody reads them with the model.
        for logs in self._kept.glob("wandb/*/logs"):
            shutil.rmtree(logs, ignore_errors=True)


def settings() -> wandb.Settings:
    return wandb.Settings(
        init_timeout=START_SECONDS,
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


def start(run: TrackedRun) -> WeightsAndBiases:
    return WeightsAndBiases(run)
