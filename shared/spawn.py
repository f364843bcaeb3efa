"""Start a child under its keeper (shared/keeper.py): the one way in which a worker starts a program that computes.

The keeper ends the child; this side renews, asks, and closes the pipe. It does not wait for anything by itself.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared import keeper
from shared.settings import process_environment

#: What a child may see of its worker's environment. Never the ledger's or the broker's URL.
ALLOWED = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"),
    *("CUDA_HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
    *("OMP_NUM_THREADS", "DS_ACCELERATOR", "TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "CC", "CXX"),
    *("NCCL_SOCKET_IFNAME", "NCCL_DEBUG", "NCCL_IB_DISABLE", "GLOO_SOCKET_IFNAME"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND"),
)


class Kept:
    """A running child and the pipe to its keeper."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: int):
        self.process = process
        self._pipe: int | None = pipe

    def renew(self, since: float | None = None) -> None:
        """Tell the keeper that the lease holds; `since` is the monotonic time at which its renewal began."""
        if self._pipe is None:
            return
        # Broken: it has ended. Blocking: it is stopped, and 8000 renewals wait for it.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(self._pipe, keeper.RENEWAL.pack(time.monotonic() if since is None else since))

    def poll(self) -> int | None:
        """The exit code (see keeper.py) once the child and everything that it started are gone."""
        return self.process.poll()

    def kill(self) -> None:
        """Let the keeper kill everything; returns at once. `wait` tells when it is done."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def wait(self, timeout_seconds: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        return self.process.wait(timeout_seconds)


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    folder: Path,
    log: Path,
    limit_seconds: float,
    memory_bytes: int = 0,
    locks: Sequence[int] = (),
) -> Kept:
    """Start `argv` in `folder`, output appended to `log`; `locks` are descriptors that live as long as the keeper.
    `memory_bytes` is what each process may take of the host's memory, 0: any amount."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-I", "-S", keeper.__file__, str(limit_seconds), str(memory_bytes), *argv]
    try:
        with open(log, "ab") as output:
            process = subprocess.Popen(
                command,
                stdin=reading,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=_with_neighbours(env, argv[0]),
                pass_fds=tuple(locks),
                start_new_session=True,
            )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    return Kept(process, writing)


def _with_neighbours(env: Mapping[str, str], program: str) -> dict[str, str]:
    """What is installed beside the interpreter is found by its name: torch calls ninja to compile, and no system need
    have one."""
    folder = os.path.dirname(program)
    return {**env, "PATH": os.pathsep.join((folder, env.get("PATH", os.defpath)))} if folder else dict(env)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: what is allowed of ours, then `extra`."""
    # PYTHONSAFEPATH: a folder named `shared/` in the working directory must not take the place of ours.
    return process_environment(*ALLOWED) | {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"} | dict(extra)
