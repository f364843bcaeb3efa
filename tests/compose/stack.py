"""The services of compose.yaml on a Docker engine, in a folder and a project of their own, as a user brings them up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway.cli.client import Client
from tests.engine.engine import ROOT, Engine
from tests.platform import wait_until

PROJECT = "tunesmith-test"
PORT = 18940
PROMETHEUS_PORT = 18941
#: Leases short enough to watch them end; threads enough for a tiny model.
SETTINGS = {
    "TUNESMITH_LEASE_SECONDS": "20",
    "TUNESMITH_KEEPER_SECONDS": "15",
    "TUNESMITH_RENEW_SECONDS": "1",
    "TUNESMITH_SWEEP_SECONDS": "1",
    "TUNESMITH_HUB": "no",
    "OMP_NUM_THREADS": "1",
}
PUBLISHED = {
    "TUNESMITH_PUBLISH": f"127.0.0.1:{PORT}",
    "TUNESMITH_PROMETHEUS_PUBLISH": f"127.0.0.1:{PROMETHEUS_PORT}",
}


@dataclass(frozen=True, kw_only=True)
class Container:
    id: str
    pid: int
    #: healthy, unhealthy, starting; the container's own status where nobody checks.
    health: str
    num_restarts: int
    is_running: bool
    exit_code: int


class Stack:
    def __init__(self, engine: Engine, folder: Path, services: tuple[str, ...]):
        self._engine = engine
        self._folder = folder
        self._services = services
        self._key = ""

    def prepare(self, override: str = "") -> None:
        """A folder as the checkout is after `deploy/make-secrets`, with settings of the tests; `override` is what a
        user would write to compose.override.yaml."""
        shutil.copy(ROOT / "compose.yaml", self._folder)
        shutil.copytree(ROOT / "deploy", self._folder / "deploy", ignore=shutil.ignore_patterns("secrets", "*.env"))
        subprocess.run([self._folder / "deploy" / "make-secrets"], check=True, capture_output=True)
        (self._folder / "deploy" / "tunesmith.env").write_text(_lines(SETTINGS))
        with (self._folder / ".env").open("a") as file:
            file.write(_lines(PUBLISHED))
        if override:
            (self._folder / "compose.override.yaml").write_text(override)

    def compose(self, *argv: str) -> str:
        place = ("--project-directory", str(self._folder), "--project-name", PROJECT)
        files = [part for path in sorted(self._folder.glob("compose*.yaml"), reverse=True) for part in ("--file", path)]
        return self._engine.compose(*place, *map(str, files), *argv).stdout

    def up(self) -> None:
        """Until all are healthy."""
        self.compose("up", "--detach", "--wait", "--no-build", *self._services)

    def stop(self) -> dict[str, int]:
        """All of them, in order; the exit code of each."""
        self.compose("stop")
        return {service: self.container(service).exit_code for service in self._services}

    def down(self, *argv: str) -> None:
        self.compose("down", *argv)

    @property
    def client(self) -> Client:
        """With a key made as the README says."""
        if not self._key:
            made = self.compose("exec", "-T", "gateway", "tunesmith", "keys", "create", "tests", "--role", "admin")
            self._key = made.strip()
        return Client(f"http://127.0.0.1:{PORT}", self._key)

    def container(self, service: str) -> Container:
        (identity,) = self.compose("ps", "--all", "--quiet", service).split()
        (told,) = json.loads(self._engine.docker("inspect", identity).stdout)
        state = told["State"]
        return Container(
            id=told["Id"],
            pid=state["Pid"],
            health=state.get("Health", {}).get("Status", state["Status"]),
            num_restarts=told["RestartCount"],
            is_running=state["Running"],
            exit_code=state["ExitCode"],
        )

    def kill(self, service: str) -> None:
        """As a crash would: the engine has not asked for it, so the restart policy has its turn. Returns when the
        service is up again."""
        before = self.container(service)
        groups = Path(f"/proc/{before.pid}/cgroup")
        is_here = groups.exists() and before.id in groups.read_text()
        if is_here and os.geteuid() == 0:
            os.kill(before.pid, signal.SIGKILL)
        else:  # an engine on another machine, or not ours to kill on: it takes a killed container for a stopped one
            self._engine.docker("kill", before.id)
            self._engine.docker("start", before.id)

        def is_back() -> bool:
            now = self.container(service)
            return now.is_running and now.pid != before.pid

        wait_until(is_back, 300, f"{service} is started again")

    def until_healthy(self, service: str) -> None:
        wait_until(lambda: self.container(service).health == "healthy", 300, f"{service} is healthy")

    def until_it_answers(self) -> None:
        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{PORT}/readyz", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, 300, "the gateway is ready")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers."""
        url = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query"
        answer = httpx.get(url, params={"query": expression}, timeout=10).raise_for_status().json()
        return list(answer["data"]["result"])

    def number(self, expression: str) -> float:
        (sample,) = self.query(expression)
        return float(sample["value"][1])


def _lines(values: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())
