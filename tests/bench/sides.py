"""The three trainers that are compared, each run as its user runs it: a job of a running platform, LLaMA Factory's
command, a script with TRL. All are watched from outside; what they say of their own speed is not looked at."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gateway.cli.client import Client, follow
from gateway.demo import base
from shared.errors import TunesmithError
from tests.bench import settings, watching
from tests.bench.settings import DATASET, Setting

DRIVERS = Path(__file__).parent / "drivers"
TIMEOUT_SECONDS = 900.0


class BenchFailed(TunesmithError):
    """A training of the benchmark did not succeed."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    side: str
    #: From the second step on: a first step also warms up.
    tokens_per_second: float
    cpu_ms_per_token: float
    #: From the command, or the request, to the end of the first step.
    first_step_seconds: float
    first_step_cpu_seconds: float
    peak_rss_bytes: int
    num_tokens: int
    losses: list[float]


class Tunesmith:
    name = "Tunesmith"

    def __init__(self, client: Client):
        self._client = client

    def run(self, setting: Setting, steps: int, work: Path) -> Measured:
        known = {one["name"]: one["id"] for one in self._client.get("/v1/datasets")["data"]}
        if DATASET in known:
            self._client.delete(f"/v1/datasets/{known[DATASET]}")
        settings.write(work, setting)
        self._client.upload("/v1/datasets", work / "rows.json", {"name": DATASET})
        began = time.time()
        job = self._client.post("/v1/jobs", setting.config(base.NAME, steps))
        with watching.Watch(lambda: watching.told(job["id"])) as watch:
            events = [event for event in follow(self._client, job["id"]) if event["type"] == "metrics"]
        done = self._client.get(f"/v1/jobs/{job['id']}")
        if done["status"] != "succeeded":
            raise BenchFailed(f"{done['id']} is {done['status']}: {(done.get('error') or {}).get('message')}")
        told = [event for event in events if "loss" in event["data"]]
        at = [{**event["data"], "time": stamp(event["created_at"])} for event in told]
        return measured(self.name, began, at, watch)


class Command:
    """A trainer that is a command of its own interpreter."""

    def __init__(self, name: str, python: Path, driver: str, model: Path):
        self.name, self._python, self._driver, self._model = name, python, DRIVERS / driver, model

    def run(self, setting: Setting, steps: int, work: Path) -> Measured:
        settings.write(work, setting)
        config, counted = work / "config.yaml", work / "steps.json"
        own = {"dataset_dir": str(work), "output_dir": str(work / "out"), "overwrite_output_dir": True}
        config.write_text(yaml.safe_dump(setting.config(str(self._model), steps) | own))
        counted.unlink(missing_ok=True)
        began = time.time()
        with open(work / "log.txt", "w") as log:
            argv = [str(self._python), str(self._driver), str(config), str(counted)]
            child = subprocess.Popen(argv, cwd=work, env=environment(), stdout=log, stderr=log)
            with watching.Watch(lambda: watching.tree(child.pid)) as watch:
                try:
                    code = child.wait(TIMEOUT_SECONDS)
                except subprocess.TimeoutExpired:
                    child.kill()
                    code = child.wait()
        if code:
            raise BenchFailed(f"{self.name} ended with exit code {code}:\n{(work / 'log.txt').read_text()[-2000:]}")
        return measured(self.name, began, json.loads(counted.read_text()), watch)


def environment() -> dict[str, str]:
    """The user's own, without what would send or fetch anything."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1", "TOKENIZERS_PARALLELISM": "false"}


def measured(name: str, began: float, steps: list[dict[str, Any]], watch: watching.Watch) -> Measured:
    """`steps` have the time of their end and the real tokens up to it."""
    first, last = steps[0], steps[-1]
    tokens, seconds = last["num_tokens"] - first["num_tokens"], last["time"] - first["time"]
    return Measured(
        side=name,
        tokens_per_second=tokens / seconds,
        cpu_ms_per_token=1e3 * watch.cpu_seconds(first["time"], last["time"]) / tokens,
        first_step_seconds=first["time"] - began,
        first_step_cpu_seconds=watch.cpu_seconds(began, first["time"]),
        peak_rss_bytes=watch.peak_rss_bytes,
        num_tokens=int(last["num_tokens"]),
        losses=[step["loss"] for step in steps if "loss" in step],
    )


def stamp(told: Any) -> float:
    """An event's time, seconds since the epoch."""
    from datetime import datetime

    return float(told) if isinstance(told, int | float) else datetime.fromisoformat(str(told)).timestamp()
