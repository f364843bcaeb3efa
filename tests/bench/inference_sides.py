"""The servers that are compared: vLLM itself, gateways before it, and LLaMA Factory's own. Each is started here where
it does not run yet, answers at a URL, and is watched by the CPU time and memory of its processes."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from shared import interpreters, schema, vllm_arguments
from shared.errors import TunesmithError
from shared.settings import Settings
from shared.spec import DeploySpec
from shared.vllm_arguments import Address, Files, Machine
from tests.platform import free_port

ROOT = Path(__file__).resolve().parents[2]
LITELLM = ROOT / ".venvs" / "litellm"
LITELLM_REQUIREMENT = "litellm[proxy]==1.108.2"
START_SECONDS = 300.0


class NotStarted(TunesmithError):
    """A server of the benchmark did not start."""


@dataclass(frozen=True, kw_only=True)
class Side:
    name: str
    url: str
    key: str
    model: str
    #: Those of a gateway, whose CPU time and memory are its cost; empty: not told.
    processes: Sequence[psutil.Process] = ()
    #: Members of a request that it takes: LLaMA Factory's server ends where it likes.
    extra: dict[str, Any] = field(default_factory=dict)
    #: Most streams that are tried: one that answers one after another takes minutes.
    most_streams: int = 32

    def cpu_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)

    def rss_bytes(self) -> int:
        return sum(process.memory_info().rss for process in self.processes)


@contextmanager
def instant(tokens: int, pace_ms: float, *, idle: bool = False) -> Iterator[str]:
    """The URL of a server that computes nothing."""
    port = free_port()
    script = str(Path(__file__).parent / "drivers" / "instant.py")
    command = [sys.executable, script, str(port), str(tokens), str(pace_ms), str(int(idle))]
    with running(command, f"http://127.0.0.1:{port}", os.devnull):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def vllm(own: Settings, model: Path, tap: Path, folder: Path) -> Iterator[Side]:
    """vLLM with the command of a replica, and with a tap (drivers/tap.py) that writes to `tap`."""
    spec = schema.load(DeploySpec, {"model": "smol", "max_model_len": 2048})
    files = Files(model=str(model), context_length=vllm_arguments.context_length(model))
    machine = Machine(cache_folder=own.run_dir / "cache" / "vllm")
    address, key = Address(host="127.0.0.1", port=free_port()), secrets.token_urlsafe(32)
    python = str(interpreters.inference(own))
    command = vllm_arguments.argv(python, spec, files, machine, served_name="smol", address=address)
    variables = vllm_arguments.env(files, machine, api_key=key)
    variables |= {"PYTHONPATH": str(Path(__file__).parent / "drivers"), "TUNESMITH_BENCH_TAP": str(tap)}
    with running([*command, "--middleware", "tap.Tap"], f"{address.url}/health", folder / "vllm.log", variables):
        yield Side(name="vLLM", url=address.url, key=key, model="smol", extra=of_vllm())


def of_vllm() -> dict[str, object]:
    return {"temperature": 0.0, "ignore_eos": True, "stream_options": {"include_usage": True}}


@contextmanager
def litellm(url: str, key: str, model: str, folder: Path) -> Iterator[Side]:
    """LiteLLM's proxy before the server at `url`, as its users start it."""
    port = free_port()
    parameters = {"model": f"hosted_vllm/{model}", "api_base": f"{url}/v1", "api_key": key}
    own_key = f"sk-{secrets.token_hex(16)}"
    config = {
        "model_list": [{"model_name": "smol", "litellm_params": parameters}],
        "general_settings": {"master_key": own_key},
    }
    (folder / "litellm.yaml").write_text(json.dumps(config))
    command = [str(LITELLM / "bin" / "litellm"), "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1"]
    address = f"http://127.0.0.1:{port}"
    with running([*command, "--port", str(port)], address, folder / "litellm.log") as process:
        yield Side(name="LiteLLM proxy", url=address, key=own_key, model="smol", processes=tree(process))


@contextmanager
def llama_factory(python: Path, model: Path, folder: Path) -> Iterator[Side]:
    """LLaMA Factory's API server with its own engine, as `llamafactory-cli api` starts it."""
    port = free_port()
    given = {"model_name_or_path": str(model), "template": "smollm2", "infer_backend": "huggingface"}
    (folder / "api.yaml").write_text(json.dumps(given))
    own = {"API_PORT": str(port), "API_HOST": "127.0.0.1", "DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(python.parent / "llamafactory-cli"), "api", str(folder / "api.yaml")]
    address = f"http://127.0.0.1:{port}"
    with running(command, address, folder / "llamafactory.log", own):
        extra = {"do_sample": False, "temperature": 0.0}
        yield Side(name="LLaMA Factory API", url=address, key="any", model="smol", extra=extra, most_streams=8)


@contextmanager
def running(
    command: list[str], url: str, log: str | Path, own: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process, from its first answer on. Raises NotStarted."""
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", **(own or {})}
    with open(log, "wb") as out, ExitStack() as stack:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out)
        stack.callback(end, process)
        until = time.monotonic() + START_SECONDS
        while not answers(url):
            if process.poll() is not None or time.monotonic() > until:
                raise NotStarted(f"{command[0]} did not start; see {log}")
            time.sleep(0.2)
        yield process


def answers(url: str) -> bool:
    try:
        httpx.get(url, timeout=2.0)
    except httpx.ConnectError:
        return False
    except httpx.HTTPError:
        return True
    return True


def end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started: engines outlive the server that is killed."""
    for one in tree(process):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        first = psutil.Process(process.pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def make_litellm() -> bool:
    """An environment with LiteLLM, made at first use. Whether there is one."""
    ready = LITELLM / ".ready"
    if not ready.is_file() or ready.read_text() != LITELLM_REQUIREMENT:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(LITELLM)], check=True)
        pip = [str(LITELLM / "bin" / "python"), "-m", "pip", "-q", "--disable-pip-version-check", "install"]
        if subprocess.run([*pip, LITELLM_REQUIREMENT]).returncode:
            return False
        ready.write_text(LITELLM_REQUIREMENT)
    return True
