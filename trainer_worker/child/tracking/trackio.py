"""Trackio: an SQLite file below the model's tracking/trackio, or a Space of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping

import trackio

from trainer_worker.child.tracking.run import TrackedRun, named


class Trackio:
    def __init__(self, run: TrackedRun):
        space = run.given.trackio_space_id
        self._run = trackio.init(
            project=run.given.project,
            name=run.name,
            space_id=space,
            bucket_id=run.given.trackio_bucket_id,
            config=dict(run.config),
            # By its name: only an attempt that goes on may take up a run that is there.
            resume="allow" if run.is_resumed else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.url = None if space is None else f"https://huggingface.co/spaces/{space}"
        self.last_step = -1 if space is None else run.told_until

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(named(values), step=step)

    def close(self, ending: str) -> None:
        self._run.finish()


def start(run: TrackedRun) -> Trackio:
    return Trackio(run)
