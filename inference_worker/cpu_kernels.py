"""Whether an interpreter's vLLM computes adapters on CPUs with our kernels: it finds them by an entry point.

The entry point comes with the package: an environment of somebody's own may lack it, and vLLM would say nothing.
"""

from __future__ import annotations

import subprocess

from shared import spawn

#: As pyproject.toml names it.
ENTRY_POINT = "tunesmith_cpu"
LOOK = f"""
from importlib.metadata import entry_points
print(any(point.name == {ENTRY_POINT!r} for point in entry_points(group="vllm.platform_plugins")))
"""
LOOK_SECONDS = 60.0


def are_installed(python: str) -> bool:
    """Asked of the interpreter itself, as it will be started: only it knows where its packages lie."""
    command, env = [python, "-c", LOOK], spawn.environment({})
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LOOK_SECONDS, check=False)
    return done.stdout.strip() == "True"
