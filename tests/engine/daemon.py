"""A dockerd of the tests' own, for machines where root may start one and none runs.

It has two phases on the same data. Builds need the network of the machine and no bridge (`--network host`); containers
need a bridge with its firewall rules, which stay within a network namespace that nothing else uses. Changing between
them restarts the daemon, about a second each time.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Phase = Literal["build", "run"]
#: A daemon whose owner is gone ends as well, and its containers with it.
WITH_OWNER = ("setpriv", "--pdeathsig", "TERM")
NEEDED = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "iptables": "iptables",
}
START_SECONDS = 60
STOP_SECONDS = 120


class EngineMissing(Exception):
    """No Docker engine answers, and none can be started here."""


@dataclass(kw_only=True)
class Daemon:
    """One dockerd with all that it writes below one folder."""

    folder: Path
    phase: Phase | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"unix://{self.folder / 'docker.sock'}"

    @property
    def namespace(self) -> str:
        """Named for the folder, so that several daemons of a machine do not share one."""
        return f"engine-{self.folder.stat().st_ino}"

    @property
    def inside(self) -> tuple[str, ...]:
        """What goes before a command that shall reach published ports."""
        # Not `ip netns exec`: that mounts /sys anew, and dockerd would not find the cgroups.
        return ("nsenter", f"--net=/run/netns/{self.namespace}")

    def enter(self, phase: Phase) -> None:
        """Run in the given phase; nothing happens when it does already."""
        if self.phase == phase and self.process is not None and self.process.poll() is None:
            return
        self.stop()
        if phase == "run":
            self._add_namespace()
        self.process = self._start(phase)
        self.phase = phase
        self._wait()

    def stop(self) -> None:
        """End the daemon, and with it every container; their volumes and images stay."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(STOP_SECONDS)
            self._unmount()
        self.process, self.phase = None, None
        if self.folder.exists() and Path("/run/netns", self.namespace).exists():
            subprocess.run(["ip", "netns", "delete", self.namespace], check=True)

    def _unmount(self) -> None:
        """What a daemon leaves mounted below its folder: its data onto itself, its network."""
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (place := line.split()[1]).startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", place], check=True)

    def _add_namespace(self) -> None:
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        subprocess.run(["ip", "-n", self.namespace, "link", "set", "lo", "up"], check=True)

    def _start(self, phase: Phase) -> subprocess.Popen[bytes]:
        argv = [
            *WITH_OWNER,
            *(self.inside if phase == "run" else ()),
            *("dockerd", "--host", self.host, "--storage-driver", "overlay2"),
            *("--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec")),
            *("--pidfile", str(self.folder / "dockerd.pid")),
            *(("--iptables=false", "--ip6tables=false", "--bridge=none") if phase == "build" else ()),
        ]
        with (self.folder / "dockerd.log").open("ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.host):
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "dockerd.log").read_text(errors="replace").splitlines()
                last = [line for line in said if "level=info" not in line][-3:]
                self.stop()
                raise EngineMissing("dockerd did not start:\n" + "\n".join(last))
            time.sleep(0.1)


def answers(host: str | None) -> bool:
    """Whether an engine is there; without an address, the one that the docker command finds."""
    if shutil.which("docker") is None:
        return False
    environment = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
    argv = ["docker", "version", "--format", "{{.Server.Version}}"]
    return subprocess.run(argv, env=environment, capture_output=True).returncode == 0


def check_startable() -> None:
    """Raises EngineMissing with what to do when this machine cannot have a daemon of its own."""
    missing = sorted({package for program, package in NEEDED.items() if shutil.which(program) is None})
    if missing:
        raise EngineMissing(f"no Docker engine answers, and to start one: apt-get install {' '.join(missing)}")
    if os.geteuid() != 0:
        raise EngineMissing("no Docker engine answers, and only root can start one")
