"""How each engine is started: a command line and an environment, as pure functions of what is served and where.

What is started answers as vLLM's server does, under its routes, members and metrics: nothing else in the worker knows
which engine a replica has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from inference_worker.engines import transformers_server, vllm_server
from shared import engines, interpreters, vllm_arguments
from shared.engines import Engine
from shared.settings import Settings
from shared.spec import DeploySpec
from shared.vllm_arguments import Address, Files, Machine


class Command(Protocol):
    def __call__(
        self, python: str, spec: DeploySpec, files: Files, machine: Machine, *, served_name: str, address: Address
    ) -> list[str]: ...


class Environment(Protocol):
    def __call__(self, files: Files, machine: Machine, *, api_key: str) -> dict[str, str]: ...


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """An engine as this worker starts it."""

    engine: Engine
    argv: Command
    env: Environment
    #: What the log of one that failed says, in words that help.
    explained: Callable[[str], str]
    #: Its interpreter on this machine.
    python: Callable[[Settings], str]


LAUNCHERS: Mapping[str, Launcher] = {
    engines.VLLM: Launcher(
        engine=engines.ENGINES[engines.VLLM],
        argv=vllm_server.argv,
        env=vllm_server.env,
        explained=vllm_server.explained,
        python=interpreters.inference,
    ),
    engines.TRANSFORMERS: Launcher(
        engine=engines.ENGINES[engines.TRANSFORMERS],
        argv=transformers_server.argv,
        env=transformers_server.env,
        explained=transformers_server.explained,
        python=interpreters.inference,
    ),
}


def of(spec: DeploySpec) -> Launcher:
    return LAUNCHERS[spec.engine]


def max_lora_rank(spec: DeploySpec, files: Files, machine: Machine) -> int | None:
    """Of adapters that can be loaded while it answers; None: it takes none."""
    if spec.engine == engines.VLLM:
        takes = vllm_arguments.takes_adapters(spec, files, machine)
    else:
        takes = engines.ENGINES[spec.engine].adapters and spec.adapters.enable_lora is not False
    return vllm_arguments.max_lora_rank(spec, files.adapter_rank) if takes else None
