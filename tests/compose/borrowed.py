"""A trainer without an image of its own, for where there is no time to build one (ten minutes, 2 GB).

The gateway's image has the worker's code; what only the child needs (torch and the like) is this checkout's environment
`.venvs/trainer`, mounted. All else of the service is as compose.yaml says.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.engine import wheels
from tests.engine.engine import ROOT

IMAGE = "tunesmith-gateway:0.1.0"
GATEWAY = ROOT / "deploy" / "docker" / "gateway.Dockerfile"
LIGHT = ROOT / "deploy" / "locks" / "tunesmith.txt"
#: Of the base image: what is compiled for another one cannot be loaded.
PYTHON = "python3.11"
PACKAGES = ROOT / ".venvs" / "trainer" / "lib" / PYTHON / "site-packages"
SITES = (ROOT / ".venvs" / "tunesmith" / "lib" / PYTHON / "site-packages", PACKAGES)
#: Makes the environment of both, then becomes the worker.
START = (
    "python3 -m venv --without-pip /tmp/trainer"
    f" && printf '/opt/code\\n/borrowed\\n' > /tmp/trainer/lib/{PYTHON}/site-packages/borrowed.pth"
    ' && exec "$$@"'
)


def is_possible() -> bool:
    return PACKAGES.is_dir()


def packages(folder: Path) -> Path:
    """What the gateway's image installs, as wheels of what is installed in this checkout."""
    builder = re.findall(r"pip install (setuptools==\S+)", GATEWAY.read_text())
    locked = [line for line in LIGHT.read_text().splitlines() if "==" in line]
    wheels.provide(SITES, [*builder, *locked], folder)
    return folder


def override() -> str:
    """What goes over compose.yaml."""
    environment = {
        "HOME": "/var/lib/tunesmith",
        "TUNESMITH_METRICS_HOST": "0.0.0.0",
        "TUNESMITH_METRICS_PORT": "9100",
        "TUNESMITH_TRAINER_PYTHON": "/tmp/trainer/bin/python3",
    }
    trainer: dict[str, Any] = {
        "image": IMAGE,
        "command": ["sh", "-c", START, "-", *_command(ROOT / "deploy" / "docker" / "trainer.Dockerfile")],
        "environment": environment,
        "volumes": [f"{PACKAGES}:/borrowed:ro"],
    }
    return json.dumps({"services": {"trainer": trainer}})


def _command(dockerfile: Path) -> list[str]:
    (line,) = (line for line in dockerfile.read_text().replace("\\\n", "").splitlines() if line.startswith("CMD "))
    return list(json.loads(line.removeprefix("CMD ")))
