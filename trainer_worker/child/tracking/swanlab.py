"""SwanLab: its cloud (or the administrator's host), or files below the model's tracking/swanlab for `swanlab watch`
(local) and `swanlab sync` (offline). Sends nothing of the machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping

import swanlab
from swanlab.plugin.notification import LarkCallback

from shared.settings import process_environment
from trainer_worker.child.tracking.run import CRASHED, LARK, PAUSED, TrackedRun, named

#: As many as SwanLab takes.
MAX_TAGS = 30


class SwanLab:
    def __init__(self, run: TrackedRun):
        self._kept, given, is_online = run.kept, run.given, run.given.swanlab_mode == "cloud"
        self._run = swanlab.init(
            project=given.swanlab_project,
            workspace=given.swanlab_workspace,
            name=given.swanlab_run_name or run.name,
            mode="online" if is_online else given.swanlab_mode,
            log_dir=str(run.scratch if is_online else run.kept),
            tags=list(run.tags)[:MAX_TAGS],
            config=dict(run.config),
            settings=settings(),
            callbacks=bots(),
            **({"id": run.job_id, "resume": "allow"} if is_online else {}),
        )
        self.url = self._run.url if is_online else None
        self.last_step = run.told_until if is_online else -1

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(named(values), step=step)

    def close(self, ending: str) -> None:
        state = {CRASHED: "crashed", PAUSED: "aborted"}.get(ending, "success")
        self._run.finish(state=state)
        # Its own logs tell of the machine, and nobody reads them with the model.
        for logs in self._kept.glob("run-*/debug"):
            shutil.rmtree(logs, ignore_errors=True)


def settings() -> swanlab.Settings:
    probe = swanlab.Settings.Probe(
        hardware=False, runtime=False, requirements=False, conda=False, git=False, swanlab=False, monitor=False
    )
    terminal = swanlab.Settings.Terminal(proxy_type="none")
    return swanlab.Settings(interactive=False, probe=probe, terminal=terminal)


def bots() -> list[LarkCallback]:
    url, secret = LARK
    given = process_environment(url, secret)
    return [LarkCallback(given[url], given.get(secret), language="en")] if url in given else []


def start(run: TrackedRun) -> SwanLab:
    return SwanLab(run)
