"""A training as child processes: their arguments and environment. Pure functions of what they are given.

torchrun starts every training of several processes. Its rendezvous is static and it never restarts a rank: only the
ledger restarts a job. It reads no environment and picks no port. A training that is one process alone is that process:
torchrun would load torch once more before it (2 to 5 s), and make it a group of one whose gradients are copied about.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.settings import Settings
from shared.spec import TrainSpec
from trainer_worker import deepspeed

#: The device of a machine without GPUs, as shared/devices.py calls it; that module is for workers, not for children.
CPU = "cpu"
#: What computes a rank.
CHILD = "trainer_worker.child"
#: This machine only: a job's processes talk to each other over it, nobody else does; several nodes have addresses.
LOOPBACK = "127.0.0.1"


def prepare_argv(python: str, folder: str) -> list[str]:
    return [python, "-m", "trainer_worker.child.prepare", folder]


def train_argv(
    python: str, folder: str, *, num_processes: int, port: int, address: str = LOOPBACK, node_rank: int = 0,
    num_nodes: int = 1, grouped: bool = True,
) -> list[str]:  # fmt: skip
    """`num_processes` are this node's; `port` must be free at `address`: node 0's agent listens there. `grouped` is
    whether a process group is needed even for one process."""
    if num_processes == num_nodes == 1 and not grouped:
        return [python, "-m", CHILD, folder]
    return [
        *(python, "-m", "trainer_worker.child.launch"),
        *("--nnodes", str(num_nodes), "--node-rank", str(node_rank), "--nproc-per-node", str(num_processes)),
        *("--rdzv-backend", "static", "--master-addr", address, "--master-port", str(port)),
        *("--max-restarts", "0", "-m", CHILD, folder),
    ]


def is_single(argv: Sequence[str]) -> bool:
    """Whether the training is one process without a launcher."""
    return list(argv[1:3]) == ["-m", CHILD]


def needs_group(spec: TrainSpec, held: Sequence[str]) -> bool:
    """Whether even one process has a group: DeepSpeed's engine asks for one, and alone the Trainer would take every
    device that it sees."""
    return deepspeed.is_wanted(spec) or len(held) > 1


def network(settings: Settings, address: str, interface: str) -> dict[str, str]:
    """Which interface gloo and NCCL use between nodes that meet at `address`; NCCL finds its own unless it is set."""
    if address == LOOPBACK:
        return {}
    # Empty, gloo looks the host's name up, which may resolve to nothing or to loopback.
    gloo = {"GLOO_SOCKET_IFNAME": interface}
    return gloo | ({"NCCL_SOCKET_IFNAME": settings.node_interface} if settings.node_interface else {})


def environment(
    settings: Settings, *, devices: Sequence[str] = (CPU,), num_processes: int = 1, num_cores: int = 1
) -> dict[str, str]:
    env = {
        # torchrun would set 1 for several processes: a core each on machines that have many.
        "OMP_NUM_THREADS": str(max(1, num_cores // num_processes)),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        # A crash in native code leaves its Python stack in the rank's log.
        "PYTHONFAULTHANDLER": "1",
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    }
    if not settings.hub:
        env["HF_HUB_OFFLINE"] = "1"
    return env | (_CPU_ENVIRONMENT if tuple(devices) in ((CPU,), ()) else {})


_CPU_ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    # With several processes accelerate would say cpu:0, as which torch cannot load the optimizer of a checkpoint.
    "ACCELERATE_TORCH_DEVICE": "cpu",
    # OpenMP's threads spin long while they wait for each other: with anything else at work on the same cores training
    # was four times slower (25 tokens/s beside an export on two cores). Spin shortly, then sleep.
    "GOMP_SPINCOUNT": "1000",
    # The host's name may resolve to nothing, and gloo would look it up.
    "GLOO_SOCKET_IFNAME": "lo",
}
