"""`python -m trainer_worker.child.ray_driver <attempt folder> [address]`: a training whose ranks Ray Train starts.

The ranks are those of torchrun: trainer_worker/child/__main__.py in Ray's workers, which have the same variables. Ray
keeps no checkpoints of its own and starts nothing again: only the ledger restarts a job. This process speaks for the
job only before the ranks are there.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shared import logs, schema
from shared.attempt import EXITS, Attempt
from shared.errors import TunesmithError
from shared.spec import TrainSpec
from trainer_worker import raytrain, torchrun
from trainer_worker.child.__main__ import leave

log = logging.getLogger(__name__)

#: How links begin that stand for the folders in which Ray keeps its sockets.
LINK = "tunesmith-ray-"
#: A socket's path has at most 107 bytes, and Ray's own part of it up to 68.
LONGEST_LINK = 107 - 68
#: Members of run.json that are, or hold, paths which every rank reads.
READ = ("model_path", "adapter_path", "merged_paths", "ref_model_path", "ref_adapter_path", "cache_dir")
#: ray.init waits for minutes for a head that is not there.
REACH_SECONDS = 10.0

#: What faulthandler says of the signals that it catches.
FATAL = {
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
    "Bus error": signal.SIGBUS,
    "Illegal instruction": signal.SIGILL,
    "Floating point exception": signal.SIGFPE,
}


class RankFailed(Exception):
    """A rank has failed and has said why."""


class ClusterUnfit(TunesmithError):
    """The Ray cluster cannot run this training."""

    code = "ray_cluster_unfit"


class ClusterUnreachable(TunesmithError):
    """The Ray cluster does not answer."""

    code = "ray_cluster_unreachable"


def main(folder: Path, address: str) -> int:
    attempt = Attempt(folder)
    with _telling(attempt):
        spec = schema.from_stored(TrainSpec, attempt.run["spec"])
        num_processes = int(attempt.run["num_processes"])
        where = f"in the cluster at {address}" if address else "on this machine"
        attempt.emit("message", f"Ray starts {num_processes} processes {where}", num_processes=num_processes)
    with started(attempt, spec, address, num_processes) as has_gpus:
        return fit(attempt, spec, num_processes, has_gpus, raytrain.secrets(os.environ) if address else {})


@contextmanager
def _telling(attempt: Attempt) -> Iterator[None]:
    """No rank is there yet to say why it failed."""
    try:
        yield
    except Exception as error:
        attempt.fail(error)
        raise


@contextmanager
def started(attempt: Attempt, spec: TrainSpec, address: str, num_processes: int) -> Iterator[bool]:
    """Ray, for as long as it is used; whether the ranks have GPUs."""
    with _telling(attempt):
        import ray  # takes seconds

    with nullcontext(Path()) if address else linked(Path(attempt.run["scratch_dir"]) / "ray") as place:
        try:
            with _telling(attempt):
                if address:
                    has_gpus = join(ray, attempt, spec, num_processes, address)
                else:
                    has_gpus = begin(ray, attempt, spec, num_processes, place)
            yield has_gpus
        finally:
            ray.shutdown()


def begin(ray: Any, attempt: Attempt, spec: TrainSpec, num_processes: int, place: Path) -> bool:
    """A Ray of the job's own, on the devices that it holds."""
    num_gpus = sum(device != torchrun.CPU for device in attempt.run["devices"])
    ray.init(**raytrain.own(spec, num_processes=num_processes, num_gpus=num_gpus, temp_dir=str(place)))
    return num_gpus > 0


def join(ray: Any, attempt: Attempt, spec: TrainSpec, num_processes: int, address: str) -> bool:
    """A cluster that is there, once it is known to be able to run the ranks."""
    if ignored := raytrain.unheeded(spec):
        text = f"ray_init_kwargs: {', '.join(ignored)} size a Ray of the job's own, and this server has a cluster"
        attempt.emit("finding", text, "warning", field="ray_init_kwargs")
    reach(address)
    try:
        ray.init(**raytrain.cluster(spec, address, os.environ))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterUnfit(f"the Ray cluster at {address} cannot be joined: {error}", field="use_ray") from error
    total = ray.cluster_resources()
    has_gpus = total.get("GPU", 0) > 0
    kind = "GPU" if has_gpus else "CPU"
    if total.get(kind, 0) < num_processes:
        text = f"is {num_processes}, and the Ray cluster has {total.get(kind, 0):g} {kind}s: give at most as many"
        raise ClusterUnfit(text, field="ray_num_workers")
    check_nodes(ray, paths(attempt), kind)
    return has_gpus


def reach(address: str) -> None:
    """Raises ClusterUnreachable. A cluster that is found without an address (`auto`) is on this machine."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except OSError as error:
        text = f"the Ray cluster at {address} does not answer: {error}"
        raise ClusterUnreachable(text, field="use_ray") from error


def paths(attempt: Attempt) -> list[str]:
    """What every rank must find: the attempt's folder, what it starts from, the prepared data."""
    run = attempt.run
    given = [run.get(name) for name in READ] + list((run.get("reward") or {}).values())
    flat = [path for entry in given for path in (entry if isinstance(entry, list) else [entry])]
    return [str(attempt.folder), *(path for path in flat if path and os.path.isabs(path))]


def check_nodes(ray: Any, wanted: Sequence[str], kind: str) -> None:
    """Ask every node that may get a rank. Raises ClusterUnfit."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get(kind, 0) > 0:
            where = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0, scheduling_strategy=where)(absent)
            asked[node["NodeManagerAddress"]] = task.remote(list(wanted), version("tunesmith"))
    for name, answer in asked.items():
        try:
            missing = ray.get(answer)
        except Exception as error:
            text = f"node {name} of the Ray cluster cannot run Tunesmith's trainer; install it there as here: {error}"
            raise ClusterUnfit(text, field="use_ray") from error
        if missing:
            text = f"node {name} of the Ray cluster does not see {', '.join(missing)}: share TUNESMITH_RUN_DIR, "
            raise ClusterUnfit(text + "TUNESMITH_HOME and the import roots at the same paths", field="use_ray")


def absent(wanted: Sequence[str], ours: str) -> list[str]:
    """Which of the paths a node does not see. Raises where its trainer is another one than here."""
    from trainer_worker.child import __main__  # noqa: F401

    if (theirs := version("tunesmith")) != ours:
        raise ClusterUnfit(f"Tunesmith {theirs} is installed there, and {ours} here")
    return [path for path in wanted if not os.path.exists(path)]


@contextmanager
def linked(folder: Path) -> Iterator[Path]:
    """A link to the folder, made here, short enough for the names of sockets in it. One that a killed driver left goes
    with the next one that ends here."""
    folder.mkdir(exist_ok=True)
    temporary = Path(tempfile.gettempdir())
    name = LINK + secrets.token_hex(4)
    link = (temporary if len(str(temporary / name)) <= LONGEST_LINK else Path("/tmp")) / name
    link.symlink_to(folder)
    try:
        yield link
    finally:
        link.unlink(missing_ok=True)
        sweep(link.parent)


def sweep(temporary: Path) -> None:
    """Remove our links whose folders have gone."""
    for link in temporary.glob(f"{LINK}*"):
        with suppress(OSError):
            if link.is_symlink() and not link.exists() and link.lstat().st_uid == os.getuid():
                link.unlink()


def fit(attempt: Attempt, spec: TrainSpec, num_processes: int, has_gpus: bool, given: Mapping[str, str]) -> int:
    """Run the ranks to their end; what happened they have said themselves, where they could."""
    with _telling(attempt):
        from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
        from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        rank(attempt.folder, given),
        torch_config=TorchConfig(backend="nccl" if has_gpus else "gloo", timeout_s=int(spec.train.ddp_timeout)),
        scaling_config=ScalingConfig(num_workers=num_processes, use_gpu=has_gpus),
        run_config=RunConfig(
            name="train",
            storage_path=str(Path(attempt.run["scratch_dir"]) / "ray-results"),
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        log.exception("The ranks did not all end well")
        write_exits(attempt.folder, error.worker_failures)
        return 1
    return 0


def rank(folder: Path, given: Mapping[str, str]) -> Callable[[], None]:
    """What Ray carries to its workers; the job's secrets (`given`) travel inside of it, where nothing shows them."""
    return partial(_rank, folder, dict(given))


def _rank(folder: Path, given: Mapping[str, str]) -> None:
    from trainer_worker.child import __main__ as child

    os.environ.update(given)
    if child.main(folder):
        # It has said why; raised here so that Ray ends the others.
        raise RankFailed("this rank has failed: see its error file")


def write_exits(folder: Path, failures: Mapping[int, BaseException]) -> None:
    """As launch.py does for torchrun: the ranks that left no word were ended by a signal. Ray does not tell by which:
    faulthandler names in the rank's log those that it could catch, and nothing but SIGKILL is left."""
    silent = [rank for rank in failures if not (folder / f"error-rank{rank}.json").exists()]
    exits = [{"rank": rank, "code": -signal_of(folder / "logs" / f"rank{rank}.log"), "seen_at": 0} for rank in silent]
    if exits:
        (folder / EXITS).write_text(json.dumps(exits))


def signal_of(path: Path) -> int:
    text = path.read_text(errors="replace") if path.exists() else ""
    return next((number for words, number in FATAL.items() if f"Fatal Python error: {words}" in text), signal.SIGKILL)


if __name__ == "__main__":
    logs.begin_child(Attempt(Path(sys.argv[1])), "train")
    leave(main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""))
