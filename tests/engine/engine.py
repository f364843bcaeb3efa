"""The Docker engine that tests talk to: the one of this machine, or else one of their own (daemon.py).

with opened() as engine:
    engine.build("gateway", "trainer")        # this project's images, and what they and compose.yaml stand on
    engine.compose("up", "--detach", "--wait")
    with engine.entered():                    # where published ports are reached
        httpx.get("http://127.0.0.1:8000/healthz")
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.engine import standins
from tests.engine.client import with_builder, with_compose
from tests.engine.daemon import Daemon, EngineMissing, Phase, answers, check_startable
from tests.engine.packages import Packages

ROOT = Path(__file__).resolve().parents[2]
#: Kept between runs: images, their build cache and the stand-ins' packages.
FOLDER = Path(os.environ.get("TUNESMITH_TEST_ENGINE", ROOT / ".engine"))
CLONE_NEWNET = 0x40000000


@dataclass(kw_only=True)
class Engine:
    """Builds and runs; which daemon does it is nobody's concern."""

    folder: Path
    #: None: the machine's own engine is used, and never stopped.
    daemon: Daemon | None
    #: Beside the process's own.
    environment: dict[str, str] = field(default_factory=dict)
    #: Where each image that is not this project's came from (standins.provide).
    origins: dict[str, str] = field(default_factory=dict)

    def enter(self, phase: Phase) -> None:
        if self.daemon is not None:
            self.daemon.enter(phase)

    def docker(self, *argv: str, check: bool = True, **settings: str) -> subprocess.CompletedProcess[str]:
        """One docker command, with `settings` in its environment; its words are in the note of a failure."""
        environment = {**os.environ, **self.environment, **settings}
        done = subprocess.run(["docker", *argv], env=environment, cwd=ROOT, capture_output=True, text=True)
        return _checked(done) if check else done

    def compose(self, *argv: str, check: bool = True, **settings: str) -> subprocess.CompletedProcess[str]:
        self.enter("run")
        return self.docker("compose", *argv, check=check, **settings)

    def provide(self, *images: str) -> dict[str, str]:
        """Upstream's images, pulled or stood in for."""
        self.enter("build")
        self.origins |= standins.provide(self.docker, images, self.folder)
        return self.origins

    def check(self) -> None:
        """Raises EngineMissing where the engine answers but cannot run a container."""
        self.provide(standins.BASE)
        done = self.docker("run", "--rm", "--network", "host", standins.BASE, "true", check=False)
        if done.returncode != 0:
            raise EngineMissing(f"the Docker engine here cannot run a container:\n{done.stderr}")

    @contextmanager
    def building(self, wheels: Path | None = None) -> Iterator[dict[str, str]]:
        """What deploy/images wants in its environment, on a base that is there."""
        self.provide(standins.BASE)
        if self.origins[standins.BASE] != "stand-in":
            yield {}
            return
        with Packages(wheels) as packages:
            yield {"BUILD_NETWORK": "host", **packages.arguments}

    def build(self, *names: str, wheels: Path | None = None, **settings: str) -> str:
        """Images of this project through deploy/images, on a stand-in from `wheels` alone; what it printed."""
        with self.building(wheels) as told:
            environment = {**os.environ, **self.environment, **told, **settings}
            argv = [str(ROOT / "deploy" / "images"), *names]
            return _checked(subprocess.run(argv, env=environment, capture_output=True, text=True)).stdout

    @property
    def inside(self) -> tuple[str, ...]:
        """What goes before a command that shall reach published ports."""
        return () if self.daemon is None else self.daemon.inside

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread, and what it starts, reach published ports."""
        if self.daemon is None:
            yield
            return
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.daemon.namespace}") as there:
            _join(there.fileno())
            try:
                yield
            finally:
                _join(home.fileno())

    def close(self) -> None:
        if self.daemon is not None:
            self.daemon.stop()


@contextmanager
def opened(folder: Path = FOLDER) -> Iterator[Engine]:
    """Waits for whoever uses the folder; raises EngineMissing where there is no engine and none can be started."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        daemon = None
        if not answers(None):
            check_startable()
            daemon = Daemon(folder=folder)
        engine = Engine(folder=folder, daemon=daemon, environment=_client(folder, daemon))
        engine.enter("build")
        try:
            yield engine
        finally:
            engine.close()


def _client(folder: Path, daemon: Daemon | None) -> dict[str, str]:
    """The environment of docker commands: which daemon, which builder, which Compose."""
    host = {"DOCKER_HOST": daemon.host} if daemon is not None else {}
    path, config = with_builder(folder), with_compose(folder)
    return {
        "DOCKER_BUILDKIT": "1",
        **host,
        **({"PATH": path} if path is not None else {}),
        **({"DOCKER_CONFIG": str(config)} if config is not None else {}),
    }


def _checked(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    try:
        done.check_returncode()
    except subprocess.CalledProcessError as error:
        error.add_note("\n".join((done.stdout + done.stderr).splitlines()[-40:]))
        raise
    return done


def _join(namespace: int) -> None:
    """Python 3.12 has os.setns."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
