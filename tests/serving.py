"""Deployments that really run in tests: an inference worker in a process of its own, and models to deploy.

With `engine="transformers"` a tiny model is ready in some ten seconds; vLLM takes a minute.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from shared import interpreters, schema
from shared.records import Deployment, NewModel
from shared.settings import Settings, process_environment
from shared.spec import DeploySpec
from tests.platform import Platform, wait_until

ROOT = Path(__file__).resolve().parents[1]
#: A random Llama with 512 positions in folder `base`, and LoRA adapters of it in `adapter` and `other`.
MAKE_MODELS = """
import sys
from pathlib import Path
from tests.child.export_fixtures import llama, lora
folder = Path(sys.argv[1])
base = llama(folder / "base", hidden_size=128, intermediate_size=256, max_position_embeddings=512)
lora(base, folder / "adapter", r=40)
lora(base, folder / "other", r=4, seed=2)
"""


def make_models(folder: Path) -> Path:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [interpreters.trainer(Settings()), "-c", MAKE_MODELS, str(folder)]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    return folder


def add_model(platform: Platform, folder: Path, name: str, kind: str = "base", base: str | None = None) -> None:
    sealed = platform.artifacts.put_folder(folder, platform.artifacts.uri("models", name.replace(":", "-")))
    new = NewModel(
        name=name, kind=kind, base_model=base, uri=sealed.uri, digest=sealed.digest, size_bytes=sealed.size_bytes,
        format="safetensors",
    )  # fmt: skip
    platform.store.models.create(platform.store.projects.default().id, new)


@contextlib.contextmanager
def worker(platform: Platform) -> Iterator[psutil.Popen]:
    """An inference worker of the platform; its log is `worker.log` in the platform's home."""
    env = process_environment("PATH", "HOME") | platform.settings.environment() | {"OMP_NUM_THREADS": "1"}
    with (platform.settings.home / "worker.log").open("ab") as output:
        process = psutil.Popen([sys.executable, "-m", "inference_worker"], env=env, cwd="/", stderr=output)
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # a test may have ended it
            process.terminate()
        process.wait(60)


def deploy(platform: Platform, model: str, **spec: Any) -> Deployment:
    """With the transformers engine, unless `spec` says otherwise."""
    wire = schema.to_wire(schema.load(DeploySpec, {"model": model, "engine": "transformers", **spec}))
    project_id, name = platform.store.projects.default().id, spec.get("name") or model
    return platform.store.deployments.create(project_id, name=name, model_name=model, spec=wire)


def deployment(platform: Platform, name: str) -> Deployment:
    return platform.store.deployments.get(platform.store.projects.default().id, name)


def await_status(platform: Platform, name: str, status: str, seconds: float = 120) -> Deployment:
    wait_until(lambda: deployment(platform, name).status == status, seconds, f"{name} is {status}")
    return deployment(platform, name)


def processes(platform: Platform, worker: psutil.Popen, name: str) -> list[psutil.Process]:
    """Everything that runs for the first replica of a deployment, its keeper included."""
    id = deployment(platform, name).replicas[0].id
    keepers = [process for process in worker.children(recursive=True) if _keeps(process, id)]
    return [process for keeper in keepers for process in [keeper, *keeper.children(recursive=True)]]


def _keeps(process: psutil.Process, replica_id: str) -> bool:
    try:
        return "keeper.py" in " ".join(process.cmdline()) and replica_id in process.cwd()
    except psutil.Error:  # it has just ended
        return False
