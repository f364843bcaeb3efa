"""This machine: folders, room, storage, ports, memory between processes, who may read secrets, GPUs."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import httpx

from gateway.admin import home
from gateway.admin.doctor.findings import Finding, error, ok, warning
from gateway.cli.client import CLIENT_FILE
from shared import interpreters, volumes
from shared.artifact import ArtifactStore
from shared.errors import Unavailable
from shared.gpus import query as query_gpus
from shared.settings import Settings, process_environment

#: A model of 7 B parameters with one checkpoint that can be gone on from; less is soon full.
LITTLE_BYTES = 20 * 1024**3
#: Between the ranks of a training, and between a vLLM server and its engine.
SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_BYTES = 1024**3
FEW_FILES = 4096
#: Where an orchestrator mounts what only this container sees.
MOUNTED_SECRETS = Path("/run/secrets")


def folders(settings: Settings) -> Iterator[Finding]:
    for name, folder in (("home", settings.home), ("run folder", settings.run_dir)):
        yield _folder(name, folder)
    for root in settings.import_roots:
        if not os.access(root, os.R_OK | os.X_OK):
            yield error(
                "imports", f"{root} of TUNESMITH_IMPORT_ROOTS cannot be read", "make it, or take it out of the list"
            )
    if settings.eval_tasks_dir and not Path(settings.eval_tasks_dir).is_dir():
        yield error(
            "tasks",
            f"TUNESMITH_EVAL_TASKS_DIR is {settings.eval_tasks_dir!r}: no folder",
            "name the folder of the tasks",
        )


def _folder(name: str, folder: Path) -> Finding:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return error(name, f"{there} cannot be written by user {os.getuid()}", f"give {folder} to this user")
    volume = volumes.fullest([folder])
    if volume is not None and volume.is_full:
        return error(name, f"{volume}: nothing more can be kept", "make room, or move it to a larger volume")
    if volume is not None and volume.free_bytes < LITTLE_BYTES:
        return warning(name, f"{volume}: a large model fills it", "make room, or move it to a larger volume")
    return ok(name, f"{folder}, {volume}")


def storage(settings: Settings) -> Iterator[Finding]:
    """Written only where it exists: a look makes nothing."""
    artifacts = ArtifactStore(settings.storage_url, settings.run_dir / "cache")
    if artifacts.root is not None and not artifacts.root.exists():
        yield _folder("storage", artifacts.root)
        return
    try:
        artifacts.storage_id()
        artifacts.check_writable()
    except Exception as refused:  # an fsspec file system raises what its library has
        yield error(
            "storage", f"{_named(settings.storage_url)} cannot be used ({type(refused).__name__}: {refused})",
            "see TUNESMITH_STORAGE_URL, and for S3 the keys and AWS_ENDPOINT_URL in this environment",
        )  # fmt: skip
        return
    yield (
        _folder("storage", artifacts.root)
        if artifacts.root
        else ok("storage", f"{settings.storage_url} can be written")
    )


def _named(url: str) -> str:
    return f"TUNESMITH_STORAGE_URL {url!r}"


def port(settings: Settings) -> Iterator[Finding]:
    if home.is_free(settings.host, settings.port):
        yield ok("port", f"{settings.port} of {settings.host} is free")
    elif _is_ours(home.public_url(settings)):
        yield ok("port", f"a gateway answers at {home.public_url(settings)}")
    else:
        yield error(
            "port",
            f"{settings.port} of {settings.host} is in use by something else",
            "set TUNESMITH_PORT to another one",
        )


def _is_ours(url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/healthz", timeout=3.0).json() == {"status": "ok"})
    except (httpx.HTTPError, ValueError):
        return False


def shared_memory(settings: Settings) -> Iterator[Finding]:
    """Of importance only where children compute: a gateway's container needs none."""
    volume = volumes.fullest([SHARED_MEMORY])
    if _computes(settings) and volume is not None and volume.total_bytes < SHARED_MEMORY_BYTES:
        yield warning(
            "/dev/shm", f"{volume.total_bytes / 2**20:.0f} MiB: trainings on several devices and vLLM may fail",
            "give the container 4 GiB (docker: --shm-size 4g; Kubernetes: an emptyDir of medium Memory)",
        )  # fmt: skip


def _computes(settings: Settings) -> bool:
    for find in (interpreters.trainer, interpreters.inference):
        with suppress(Unavailable):
            return bool(find(settings))
    return False


def open_files(settings: Settings) -> Iterator[Finding]:
    """A gateway takes as many as its hard limit allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield from _enough_files(most)


def _enough_files(most: int) -> Iterator[Finding]:
    """A stream has two: the client's connection and the replica's."""
    if most != resource.RLIM_INFINITY and most < FEW_FILES:
        yield warning(
            "open files", f"a process may have {most}: a gateway answers fewer than {most // 2} streams at once",
            "raise the hard limit (systemd: LimitNOFILE=65536; docker: --ulimit nofile=65536)",
        )  # fmt: skip


def privacy(settings: Settings) -> Iterator[Finding]:
    """Files of secrets that other users of the machine may read."""
    given = process_environment(*(f"TUNESMITH_{field.name.upper()}_FILE" for field in fields(settings)))
    named = [Path(text) for text in given.values() if not Path(text).is_relative_to(MOUNTED_SECRETS)]
    open_ones = [path for path in (*named, settings.home / CLIENT_FILE) if _is_open(path)]
    for path in open_ones:
        yield warning("secrets", f"{path} can be read by other users of this machine", f"chmod 600 {path}")
    if not open_ones:
        yield ok("secrets", "no file of secrets can be read by other users")


def _is_open(path: Path) -> bool:
    """Also the folder must let others in."""
    if not path.exists():
        return False
    return bool(path.stat().st_mode & 0o044 and path.parent.stat().st_mode & 0o011)


def gpus(settings: Settings) -> Iterator[Finding]:
    rows = query_gpus("name", "memory.total", "driver_version")
    if rows:
        names = ", ".join(f"{name} ({int(mib) / 1024:.0f} GiB)" if mib.isdigit() else name for name, mib, _ in rows)
        yield ok("GPUs", f"{names}; driver {rows[0][2]}")
    elif shutil.which("nvidia-smi"):
        yield error(
            "GPUs", "nvidia-smi is there and tells of no GPU", "see `nvidia-smi`: driver, or the container's GPU access"
        )
    elif any(device != "cpu" for device in settings.devices):
        yield error(
            "GPUs", "TUNESMITH_DEVICES names GPUs, and there is no nvidia-smi", "install the driver, or set it to cpu"
        )
    else:
        yield ok("GPUs", "none: this machine is one device, cpu")


def hub(settings: Settings) -> Iterator[Finding]:
    if not settings.hub:
        yield ok("Hub", "off: models and datasets come from uploads and import roots")
        return
    try:
        httpx.head(settings.hub_url, timeout=5.0, follow_redirects=True)
    except httpx.HTTPError as refused:
        yield warning(
            "Hub", f"{settings.hub_url} is not reached ({type(refused).__name__})",
            "name a mirror in HF_ENDPOINT or a proxy in HTTPS_PROXY, or set TUNESMITH_HUB=no",
        )  # fmt: skip
    else:
        yield ok("Hub", f"{settings.hub_url} answers")
