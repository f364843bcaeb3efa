"""`tunesmith up` for real: it starts the whole platform, and stops it, and nothing of it is ever left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.processes import command

PORT = 18710
URL = f"http://127.0.0.1:{PORT}"
UP = [sys.executable, "-m", "gateway.cli", "up"]
#: Celery services of three kinds, beat, inference, gateway and broker: each under its keeper.
NUM_SERVICES = 7


class Up:
    """A `tunesmith up` in a session of its own, its output in a file."""

    def __init__(self, home: Path):
        self.home = home
        self.out = home.parent / "up.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True, **env: str) -> subprocess.Popen[bytes]:
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                UP, env=self.environment(**env), stdout=out, stderr=out, start_new_session=True
            )
        if wait:
            until(lambda: "is ready" in self.out.read_text() or self.process.poll() is not None, 150)
            assert "is ready" in self.out.read_text(), self.out.read_text()
        return self.process

    def refused(self, **env: str) -> str:
        done = subprocess.run(UP, env=self.environment(**env), capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, done.stdout + done.stderr
        return done.stderr

    def environment(self, **env: str) -> dict[str, str]:
        return (
            os.environ | {"TUNESMITH_HOME": str(self.home), "TUNESMITH_PORT": str(PORT), "OMP_NUM_THREADS": "1"} | env
        )

    def get(self, path: str) -> Any:
        key = json.loads((self.home / "client.json").read_text())["key"]
        return httpx.get(f"{URL}{path}", headers={"Authorization": f"Bearer {key}"}, timeout=10.0)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    made = Up(tmp_path_factory.mktemp("up") / "home")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def until(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def workers(up: Up) -> set[str]:
    answer = up.get("/v1/workers")
    return (
        {kind for worker in answer.json()["data"] for kind in worker["kinds"]} if answer.status_code == 200 else set()
    )


def test_it_starts_everything_and_shows_the_key_once(up: Up) -> None:
    up.start()
    shown = up.out.read_text()
    key = json.loads((up.home / "client.json").read_text())["key"]
    assert shown.count(key) == 1 and f"{URL}/docs" in shown
    assert stat.S_IMODE((up.home / "client.json").stat().st_mode) == 0o600
    assert up.get("/metrics").status_code == 200
    assert httpx.get(f"{URL}/v1/models").status_code == 401
    until(lambda: {"train", "export", "generate"} <= workers(up), 30)


def test_every_worker_serves_metrics_on_the_ports_after_the_gateways(up: Up) -> None:
    for port in range(PORT + 1, PORT + 6):
        assert "tunesmith_" in httpx.get(f"http://127.0.0.1:{port}/metrics").text


def test_a_second_one_in_the_same_home_is_refused_with_the_pid_of_the_first(up: Up) -> None:
    assert up.process is not None
    message = up.refused(TUNESMITH_PORT=str(PORT + 50))
    assert f"process {up.process.pid}" in message and "TUNESMITH_HOME" in message
    assert up.get("/v1/models").status_code == 200


def test_a_killed_gateway_comes_back(up: Up) -> None:
    assert up.process is not None
    gateway = gunicorn(up.process.pid)
    gateway.kill()
    until(lambda: "gateway ended with exit code 137" in up.out.read_text(), 10)
    until(is_ready, 30)


def test_ctrl_c_stops_what_it_started_and_nothing_else(up: Up) -> None:
    assert up.process is not None
    bystander = subprocess.Popen(["sleep", "300"])
    started = psutil.Process(up.process.pid).children(recursive=True)
    assert len(started) >= 2 * NUM_SERVICES
    os.killpg(up.process.pid, signal.SIGINT)  # what a terminal does
    assert up.process.wait(60) == 0
    assert not alive(started)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_the_next_start_goes_on_with_the_same_data_and_shows_no_key(up: Up) -> None:
    key = json.loads((up.home / "client.json").read_text())["key"]
    up.start()
    assert key not in up.out.read_text()
    assert up.get("/v1/models").status_code == 200


def test_kill_9_of_the_supervisor_takes_everything_with_it(up: Up) -> None:
    assert up.process is not None
    started = psutil.Process(up.process.pid).children(recursive=True)
    up.process.kill()
    up.process.wait()
    until(lambda: not alive(started), 15)
    assert not is_ready()
    up.start()
    assert up.process is not None
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(60) == 0


def test_a_taken_port_is_refused_naming_the_setting(up: Up) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", PORT))
        other.listen()
        assert f"port {PORT} of 127.0.0.1 is in use: set TUNESMITH_PORT" in up.refused()


@pytest.mark.parametrize("variable", ["TUNESMITH_TRAINER_PYTHON", "TUNESMITH_INFERENCE_PYTHON"])
def test_a_missing_interpreter_is_named_before_anything_starts(up: Up, variable: str) -> None:
    assert variable in up.refused(**{variable: "/nowhere/python"})


def is_ready() -> bool:
    try:
        return httpx.get(f"{URL}/readyz", timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False


def gunicorn(pid: int) -> psutil.Process:
    """The arbiter: the service itself, right below its keeper."""
    keepers = {one.pid for one in psutil.Process(pid).children()}
    below = psutil.Process(pid).children(recursive=True)
    return next(one for one in below if one.ppid() in keepers and "gateway.wsgi:app" in command(one))
