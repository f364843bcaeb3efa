"""The worker's side of the attempt folder: makes it, tells the child what to do and what is wanted, starts the child
in it, clears it.

The child's side is shared/attempt.py; together they are the whole protocol between the two.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared import spawn
from shared.correlation import Origin
from shared.devices import CPU
from shared.job import Job
from shared.settings import Settings
from shared.spec.distributed import Distributed
from shared.work import Phase, Run

#: Secret parameters that have a variable of their own; others become TUNESMITH_SECRET_<WIRE NAME>.
SECRET_VARIABLES = {
    "hf_hub_token": "HF_TOKEN", "swanlab_api_key": "SWANLAB_API_KEY", "wandb_api_key": "WANDB_API_KEY",
}  # fmt: skip


#: What is large: gone when the attempt is over, whatever ended it.
BULK = ("output", "scratch")
#: What the next attempt on this machine can go on from, also after a kill; gone with the end of the job.
JOURNAL = "journal"


def make(settings: Settings, job: Job, attempt: int, shared: Path | None = None, node_rank: int = 0) -> Path:
    """An empty folder that only this user can enter. What earlier attempts left here in bulk goes first.

    `shared`: where all nodes of an attempt have theirs, side by side, instead of on their own machines.
    """
    folder = path(settings, job, attempt, shared)
    if node_rank:
        folder = folder.with_name(f"{attempt}.node{node_rank}")
    else:
        for earlier in folder.parent.glob("*"):
            clear(earlier)
    shutil.rmtree(folder, ignore_errors=True)
    for made in (folder, folder / "output", folder / "scratch", folder / "logs"):
        made.mkdir(parents=True, mode=0o700)
    return folder


def path(settings: Settings, job: Job, attempt: int, shared: Path | None = None) -> Path:
    """The attempt folder of node 0."""
    return (shared or settings.run_dir) / "jobs" / job.id / "attempts" / str(attempt)


def write_run_json(run: Run, own: Mapping[str, Any]) -> None:
    """run.json: what every kind has, then what its work adds."""
    common = {
        "schema_version": 1,
        "job_id": run.job.id,
        "attempt": run.attempt,
        "kind": str(run.job.kind),
        # For whoever reads what the child writes: nothing depends on them.
        **Origin.of(run.job.request).ids(),
        # As this attempt runs; the job's own stays as it was sent.
        "spec": run.job.spec | {name: value for name, value in run.job.adjustments.items() if name in run.job.spec},
        "adjustments": run.job.adjustments,
        "devices": list(run.devices),
        "num_processes": num_processes(run) * run.node.count,
        "output_dir": str(run.output),
        "scratch_dir": str(run.scratch),
        "journal_dir": str(run.folder / JOURNAL),
        "cache_dir": str(run.settings.run_dir / "cache"),
        "resume_from": str(run.resume_from) if run.resume_from else None,
    }
    _write(run.folder / "run.json", common | dict(own))


def update_run_json(run: Run) -> None:
    """Write the devices down that are held now."""
    path = run.folder / "run.json"
    known: dict[str, Any] = json.loads(path.read_text())
    _write(path, known | {"devices": list(run.devices), "num_processes": num_processes(run) * run.node.count})


def num_processes(run: Run) -> int:
    """Of this node: as the spec says, else one per GPU, one on a CPU."""
    names = ("num_processes", "use_ray", "ray_num_workers")
    given = Distributed(**{name: run.job.spec[name] for name in names if name in run.job.spec})
    return given.processes or max(1, len(run.devices))


def write_control(folder: Path, wish: str) -> None:
    """Tell the child to stop: `cancel`, `pause`, or `shutdown` (a pause for our sake); empty: take it back."""
    path = folder / "control.json"
    if wish:
        wanted, reason = ("pause", "shutdown") if wish == "shutdown" else (wish, "user")
        _write(path, {"wanted": wanted, "reason": reason})
    else:
        path.unlink(missing_ok=True)


def environment(run: Run, phase: Phase) -> dict[str, str]:
    """What a child gets beside the allow-list: its devices, the phase's own, the job's secrets."""
    gpus = [name for name in run.devices if name != CPU] if phase.needs_devices else []
    secrets = {
        SECRET_VARIABLES.get(name, f"TUNESMITH_SECRET_{name.upper()}"): run.secrets[name] for name in run.secrets
    }
    # Empty hides every GPU from a phase that holds none.
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus), **phase.env, **secrets}


def clear(folder: Path) -> None:
    """Remove what is large. Logs, events and run.json stay: they are what one looks at afterwards."""
    for name in BULK:
        shutil.rmtree(folder / name, ignore_errors=True)


def leave(folder: Path, *, is_over: bool) -> None:
    """At the end of an attempt; `is_over`: no other will come."""
    clear(folder)
    for attempt in folder.parent.glob("*") if is_over else ():
        shutil.rmtree(attempt / JOURNAL, ignore_errors=True)


def journals(folder: Path) -> list[Path]:
    """Those of earlier attempts on this machine, oldest first."""
    numbers = sorted(int(other.name) for other in folder.parent.glob("*") if other.name.isdigit())
    found = (folder.parent / str(number) / JOURNAL for number in numbers if number < int(folder.name))
    return [journal for journal in found if journal.is_dir()]


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all: the child may be reading."""
    beside = path.with_suffix(".part")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file, indent=1, default=str)
    os.replace(beside, path)


def start(run: Run, phase: Phase, locks: Sequence[int]) -> spawn.Kept:
    """The phase's child, under its keeper; `locks` are descriptors of the devices that it holds."""
    update_run_json(run)
    return spawn.start(
        phase.argv,
        env=spawn.environment(environment(run, phase)),
        folder=run.folder,
        log=run.folder / "logs" / f"{phase.name}.log",
        limit_seconds=run.settings.keeper_seconds,
        memory_bytes=int(run.settings.process_memory_gib * 1024**3),
        locks=locks,
    )
