"""Devices of this machine and who holds them.

A holder has an flock on `<run_dir>/devices/<name>.lock` for each device; its keeper inherits the descriptors, so the
kernel frees them when the last process of the job is gone, however it died. All of a job's devices or none. A machine
without GPUs has one device, `cpu`, which stands for any number: trainings take it one after another (and exports that
ask for a device); replicas, and exports on the CPU, share it and take no lock.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared import gpus
from shared.requirements import CPU, Device
from shared.settings import Settings

__all__ = ["CPU", "Busy", "Taken", "find", "free", "holders", "known", "machine", "opened", "take"]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Devices held, as long as one of the descriptors (or a copy in another process) is open."""

    names: tuple[str, ...]
    descriptors: tuple[int, ...]

    def close(self) -> None:
        """Let go of our own copies; a keeper that inherited them holds on."""
        for descriptor in self.descriptors:
            os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class Busy:
    """Not enough devices are free; what their holders said of themselves, by device."""

    holders: Mapping[str, Mapping[str, Any]]

    def __str__(self) -> str:
        return ", ".join(f"{name} is held by {who.get('id', 'another process')}" for name, who in self.holders.items())


def find(settings: Settings) -> tuple[str, ...]:
    """The devices of this machine: as set, else the GPUs by UUID, else `cpu`."""
    found = tuple(sorted(row[0] for row in gpus.query("uuid")))
    return tuple(sorted(settings.devices)) or found or (CPU,)


def known(names: Sequence[str]) -> tuple[Device, ...]:
    """The devices of these names, with what nvidia-smi knows of them where they are GPUs."""
    fields = ("uuid", "name", "memory.total", "compute_cap")
    rows = {row[0]: row[1:] for row in gpus.query(*fields)} if tuple(names) != (CPU,) else {}
    found = []
    for name in names:
        kind, mib, capability = rows.get(name, (None, "", ""))
        memory_gib = round(int(mib) / 1024, 1) if mib.isdigit() else None
        found.append(Device(id=name, kind=kind, memory_gib=memory_gib, capability=_number(capability)))
    return tuple(found)


def _number(text: str) -> float | None:
    """None for what a driver says instead of a number: `[N/A]`."""
    return float(text) if text.replace(".", "", 1).isdigit() else None


def machine(known: Sequence[Device], holders: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a worker says of its machine: every device with who holds it, the GPUs where there are any, and the memory,
    GiB."""
    devices = [
        {**asdict(device), "held_by": dict(holders[device.id]) if device.id in holders else None} for device in known
    ]
    cards = [{"name": device.kind, "memory_gib": device.memory_gib} for device in known if device.memory_gib]
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    told = {"devices": devices, "host_memory_gib": round(size / 1024**3, 1)}
    return told | {"gpus": cards} if cards else told


def opened(run_dir: Path, name: str) -> int:
    """A descriptor of a device's lock for `take`, not locked yet. Who inherits it holds the lock once it is taken."""
    return os.open(_path(run_dir, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def take(
    run_dir: Path, names: Sequence[str], count: int, holder: Mapping[str, Any], *, opened: int | None = None
) -> Taken | Busy:
    """Take `count` of the devices, or none. `holder` ({"id", "kind"}) is what others read while they wait; `opened` is
    the descriptor to lock where there is one device."""
    count = 1 if tuple(names) == (CPU,) else count
    taken: dict[str, int] = {}
    busy: dict[str, Mapping[str, Any]] = {}
    for name in sorted(names):  # sorted: two jobs never wait for each other
        if len(taken) == count:
            break
        descriptor = _try_lock(run_dir, name, descriptor=opened)
        if descriptor is None:
            busy[name] = _holder(run_dir, name)
        else:
            taken[name] = descriptor
    held = Taken(names=tuple(taken), descriptors=tuple(taken.values()))
    if len(taken) < count:
        held.close()
        return Busy(holders=busy)
    for descriptor in held.descriptors:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(dict(holder)).encode(), 0)
    return held


def free(run_dir: Path, names: Sequence[str]) -> list[str]:
    """Those that could be taken now."""
    held = holders(run_dir, names)
    return [name for name in names if name not in held]


def holders(run_dir: Path, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """What the holders of those that are taken said of themselves."""
    held: dict[str, Mapping[str, Any]] = {}
    for name in names:
        # Shared: two that only look do not see each other.
        if (descriptor := _try_lock(run_dir, name, fcntl.LOCK_SH)) is None:
            held[name] = _holder(run_dir, name)
        else:
            os.close(descriptor)
    return held


def _path(run_dir: Path, name: str) -> Path:
    folder = run_dir / "devices"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name.replace('/', '_')}.lock"


def _try_lock(run_dir: Path, name: str, kind: int = fcntl.LOCK_EX, *, descriptor: int | None = None) -> int | None:
    tried = opened(run_dir, name) if descriptor is None else descriptor
    try:
        fcntl.flock(tried, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        if descriptor is None:
            os.close(tried)
        return None
    return tried


def _holder(run_dir: Path, name: str) -> Mapping[str, Any]:
    try:
        holder: dict[str, Any] = json.loads(_path(run_dir, name).read_text())
    except (OSError, ValueError):
        return {}
    return holder
