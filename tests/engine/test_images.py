"""The images as an orchestrator runs them: another user than root, a read-only root, no capabilities.

`make images-test` builds and runs them all, on an engine of its own where none runs; IMAGES=gateway,trainer in the
environment tries those only.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.daemon import EngineMissing
from tests.engine.engine import Engine, opened

NAMES = [name for name in os.environ.get("IMAGES", "gateway,trainer,export,inference").split(",") if name]
VERSION = "0.1.0"
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp:exec")
#: Bytes; what the base takes is in it.
LARGEST_GATEWAY = 250e6
STARTS_WITHIN_SECONDS = 180
#: What each environment must load, and where it lies.
LOADS = {
    "gateway": ("/opt/tunesmith", "gateway.wsgi, gateway.cli, shared.beat, s3fs, alembic.command, celery.bin.celery"),
    "trainer": ("/opt/trainer", "torch, transformers, peft, trl, deepspeed, trainer_worker.child"),
    "export": ("/opt/trainer", "torch, transformers, peft, llmcompressor, auto_round, gguf, export_worker.child"),
    "inference": ("/opt/inference", "torch, vllm, peft, vllm._C, inference_worker.child"),
}
#: As KubeRay starts the head of a cluster, which its workers ask for first; a login shell has a PATH of its own.
SHELLS = (("bash", "-c", "--"), ("bash", "-cl", "--"))
AS_KUBERAY = (
    "ulimit -n 65536; ray start --head --num-cpus=0 --num-gpus=0 --include-dashboard=false --dashboard-host=0.0.0.0 "
    "--metrics-export-port=8080 && ray health-check --address 127.0.0.1:6379 && ray stop"
)
#: Compiled at their first use by the compiler in the image, in a child as the worker starts it.
COMPILES = (
    "import torch; from deepspeed.ops.adam import DeepSpeedCPUAdam; "
    "DeepSpeedCPUAdam([torch.nn.Parameter(torch.ones(4))])"
)
IN_A_CHILD = f"""
import sys
from pathlib import Path
from shared import spawn
argv, folder = ["/opt/trainer/bin/python3", "-c", {COMPILES!r}], Path("/tmp")
env = spawn.environment({{"DS_ACCELERATOR": "cpu"}})
code = spawn.start(argv, env=env, folder=folder, log=folder / "log", limit_seconds=600).wait()
sys.exit((folder / "log").read_text() if code else 0)
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    try:
        with opened() as engine:
            engine.build(*dict.fromkeys(("gateway", *NAMES)))
            engine.provide("redis:7.2-bookworm")
            engine.enter("run")
            yield engine
    except EngineMissing as missing:
        pytest.skip(str(missing))


def image(name: str) -> str:
    return f"tunesmith-{name}:{VERSION}"


def inspected(engine: Engine, name: str) -> dict[str, Any]:
    (told,) = json.loads(engine.docker("image", "inspect", image(name)).stdout)
    return dict(told)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_says_what_it_is_and_how_it_is_run(engine: Engine, name: str) -> None:
    config = inspected(engine, name)["Config"]
    assert config["User"] == "10001"
    assert config["Healthcheck"]["Test"][0] == "CMD"
    labels = {key.rpartition(".")[2]: value for key, value in config["Labels"].items() if "opencontainers" in key}
    assert labels["title"] == f"tunesmith-{name}" and labels["version"] == VERSION
    assert len(labels["revision"]) == 40 and labels["created"].startswith("20")


@pytest.mark.parametrize("name", NAMES)
def test_an_image_loads_what_it_is_for_without_writing_to_its_root(engine: Engine, name: str) -> None:
    environment, modules = LOADS[name]
    argv = (f"{environment}/bin/python3", "-W", "ignore", "-c", f"import {modules}; print('loaded')")
    done = engine.docker("run", "--rm", *HARDENED, image(name), *argv)
    assert done.stdout.endswith("loaded\n"), done.stderr


@pytest.mark.skipif("gateway" not in NAMES, reason="IMAGES leaves the gateway out")
def test_the_gateway_image_is_small_and_has_nothing_to_build_with(engine: Engine) -> None:
    assert inspected(engine, "gateway")["Size"] <= LARGEST_GATEWAY
    looked_for = (
        "for tool in gcc g++ cc make pip; do command -v $tool; done; find / -xdev -type d -name torch 2>/dev/null"
    )
    assert engine.docker("run", "--rm", image("gateway"), "sh", "-c", f"{looked_for}; true").stdout == ""


@pytest.mark.skipif(not {"trainer", "export"} <= {*NAMES}, reason="IMAGES leaves one of them out")
def test_trainer_and_export_share_every_layer(engine: Engine) -> None:
    assert inspected(engine, "trainer")["RootFS"] == inspected(engine, "export")["RootFS"]


@pytest.mark.skipif("trainer" not in NAMES, reason="IMAGES leaves the trainer out")
def test_deepspeed_builds_its_op_in_a_hardened_container(engine: Engine) -> None:
    engine.docker("run", "--rm", *HARDENED, image("trainer"), "python3", "-c", IN_A_CHILD)


@pytest.mark.skipif("trainer" not in NAMES, reason="IMAGES leaves the trainer out")
@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_node_of_a_ray_cluster_starts_as_its_operator_starts_it(engine: Engine, shell: tuple[str, ...]) -> None:
    told = ("--env", "HOME=/tmp", "--env", "RAY_USAGE_STATS_ENABLED=0", "--entrypoint", shell[0])
    engine.docker("run", "--rm", *HARDENED, *told, image("trainer"), *shell[1:], AS_KUBERAY)


@pytest.mark.parametrize("name", NAMES)
def test_a_service_becomes_healthy_and_ends_when_told_to(engine: Engine, name: str) -> None:
    volume, broker, service = (f"images-test-{part}" for part in ("home", "broker", name))
    home = ("--volume", f"{volume}:/var/lib/tunesmith")
    # One host name and network for both: a ledger on SQLite belongs to one machine.
    joined = ("--network", f"container:{broker}", "--env", "TUNESMITH_BROKER_URL=redis://127.0.0.1:6379/0")
    try:
        engine.docker("run", "--detach", "--name", broker, "redis:7.2-bookworm")
        engine.docker("run", "--rm", *HARDENED, *home, *joined, image("gateway"), "tunesmith", "migrate")
        engine.docker("run", "--detach", "--name", service, *HARDENED, *home, *joined, image(name))
        assert becomes_healthy(engine, service), engine.docker("logs", service).stderr[-3000:]
        engine.docker("stop", "--time", "60", service)
        state = json.loads(engine.docker("inspect", "--format", "{{json .State}}", service).stdout)
        assert state["ExitCode"] == 0, state
    finally:
        engine.docker("rm", "--force", "--volumes", service, broker, check=False)
        engine.docker("volume", "rm", "--force", volume, check=False)


def becomes_healthy(engine: Engine, container: str) -> bool:
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while time.monotonic() < deadline:
        said = engine.docker("inspect", "--format", "{{.State.Health.Status}} {{.State.Running}}", container).stdout
        if said.strip() != "starting true":
            return said.strip() == "healthy true"
        time.sleep(0.5)
    return False
