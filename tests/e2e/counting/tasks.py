"""A worker like trainer_worker's, whose jobs only count: `celery -A tasks worker -Q train --pool threads -c 1`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared import queue, service
from shared.job import Kind
from shared.records import NewModel
from shared.settings import Settings
from shared.work import Finish, Phase, Run

CHILD = Path(__file__).with_name("child.py")


class CountWork:
    kind = Kind.TRAIN

    def phases(self, run: Run) -> Sequence[Phase]:
        argv = [sys.executable, str(CHILD), str(run.folder)]
        return [
            Phase(name="prepare", argv=[*argv, "prepare"], needs_devices=False),
            Phase(name="train", argv=[*argv, "train"], waits=True),
        ]

    def run_json(self, run: Run) -> Mapping[str, Any]:
        return {"model_path": "none"}

    def finish(self, run: Run, done: Mapping[str, Any]) -> Finish:
        sealed = run.artifacts.put_folder(run.output, run.uri("model"))
        model = NewModel(
            name=f"counted:{run.job.id}",
            kind="adapter",
            job_id=run.job.id,
            uri=sealed.uri,
            digest=sealed.digest,
            size_bytes=sealed.size_bytes,
            format="text",
        )
        return Finish(result={"num_steps": done["num_steps"]}, models=[model])


settings = Settings.from_env()
app = queue.make_app(settings)
service.serve(app, settings, "trainer", lambda: [CountWork()])
