"""MLflow: on the administrator's server, else as files below the model's tracking/mlflow. A job's run is found again by
its tag.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from shared.settings import process_environment
from trainer_worker.child.tracking.run import CRASHED, PAUSED, TrackedRun

JOB = "tunesmith.job_id"
#: As MLflow limits them.
MAX_PARAM_CHARS, MAX_PARAMS = 500, 100
STATUS = {CRASHED: "FAILED", PAUSED: "KILLED"}


class Mlflow:
    def __init__(self, run: TrackedRun):
        uri, self._kept = process_environment("MLFLOW_TRACKING_URI").get("MLFLOW_TRACKING_URI"), run.kept
        self._client = MlflowClient(tracking_uri=uri or run.kept.as_uri())
        experiment = self._experiment(run.given.project)
        known = self._client.search_runs([experiment], f"tags.`{JOB}` = '{run.job_id}'")
        self._run = known[0].info.run_id if known else self._new(experiment, run)
        self.url = f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{self._run}" if is_address(uri) else None
        self.last_step = self._last_step() if known else -1
        self._client.update_run(self._run, "RUNNING")

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def _new(self, experiment: str, run: TrackedRun) -> str:
        tags = {JOB: run.job_id, **{tag.partition("=")[0]: tag.partition("=")[2] for tag in run.tags}}
        made = str(self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id)
        params = [Param(name, str(value)[:MAX_PARAM_CHARS]) for name, value in run.config.items() if value is not None]
        for start in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(made, params=params[start : start + MAX_PARAMS])
        return made

    def _last_step(self) -> int:
        told = (self._client.get_metric_history(self._run, name) for name in ("loss", "eval_loss"))
        return max((metric.step for history in told for metric in history), default=-1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def close(self, ending: str) -> None:
        self._client.set_terminated(self._run, STATUS.get(ending, "FINISHED"))
        # Files name the folder in which they were written, and are read elsewhere.
        for path in self._kept.rglob("meta.yaml"):
            path.write_text(path.read_text().replace(self._kept.as_uri(), "."))


def is_address(uri: str | None) -> bool:
    """One that people can open, and that holds no password."""
    return uri is not None and uri.startswith(("http://", "https://")) and "@" not in uri


def start(run: TrackedRun) -> Mlflow:
    return Mlflow(run)
