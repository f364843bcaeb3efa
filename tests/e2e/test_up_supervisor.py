"""The supervisor of `tunesmith up`, on small programs: restarts, order of stopping, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gateway.admin.services import Service
from gateway.admin.supervisor import MAX_EARLY_FAILURES, ServiceFailed, Supervisor
from tests.processes import command

#: Writes its name when told to end, after a moment; leaves a child in a session of its own.
OBEDIENT = """
import signal, subprocess, sys, time
name, out = sys.argv[1], sys.argv[2]
subprocess.Popen(["sleep", "300.5"], start_new_session=True)
def end(*_):
    time.sleep(0.2)
    open(out, "a").write(name + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open(out + "." + name, "w").close()
while True: time.sleep(0.05)
"""
DEAF = OBEDIENT.replace("signal.signal(signal.SIGTERM, end)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, said: list[str]) -> Iterator[Supervisor]:
    made = Supervisor({"PATH": os.environ["PATH"]}, tmp_path, tmp_path / "logs", said.append)
    yield made
    made.stop(lambda: True)


def program(tmp_path: Path, name: str, code: str = OBEDIENT, rank: int = 0, grace: float = 10.0) -> Service:
    argv = (sys.executable, "-c", code, name, str(tmp_path / "ended"))
    return Service(name=name, argv=argv, rank=rank, grace_seconds=grace)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def ours() -> Callable[[], list[psutil.Process]]:
    """The processes below this one that the test started; those of earlier tests (a database) are not counted."""
    others = set(below(os.getpid()))
    return lambda: [one for one in below(os.getpid()) if one not in others]


def below(pid: int) -> list[psutil.Process]:
    return [one for one in psutil.Process(pid).children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]


def test_services_end_rank_after_rank_and_leave_nobody(
    tmp_path: Path, supervisor: Supervisor, ours: Callable[[], list[psutil.Process]]
) -> None:
    names = ("last", "first", "middle")
    for name, rank in zip(names, (2, 0, 1), strict=True):
        supervisor.start(program(tmp_path, name, rank=rank))
    until(lambda: all((tmp_path / f"ended.{name}").exists() for name in names))
    started = ours()
    assert len(started) == 9  # a keeper, the program and its child, three times
    supervisor.stop(lambda: False)
    assert (tmp_path / "ended").read_text().split() == ["first", "middle", "last"]
    until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in started))


def test_a_deaf_service_is_killed_after_its_grace(
    tmp_path: Path, supervisor: Supervisor, ours: Callable[[], list[psutil.Process]]
) -> None:
    supervisor.start(program(tmp_path, "deaf", DEAF, grace=0.5))
    until(lambda: (tmp_path / "ended.deaf").exists())
    began = time.monotonic()
    supervisor.stop(lambda: False)
    assert 0.4 < time.monotonic() - began < 5.0
    until(lambda: not ours())


def test_a_killed_service_starts_again_and_that_is_said(
    tmp_path: Path, supervisor: Supervisor, said: list[str], ours: Callable[[], list[psutil.Process]]
) -> None:
    supervisor.start(program(tmp_path, "victim"))
    until(lambda: (tmp_path / "ended.victim").exists())
    (tmp_path / "ended.victim").unlink()
    victim = next(one for one in ours() if command(one)[-2:-1] == ["victim"] and "-c" in command(one)[:2])
    victim.kill()

    def restarted() -> bool:
        supervisor.check()
        return (tmp_path / "ended.victim").exists()

    until(restarted)
    assert len(said) == 1 and said[0].startswith("victim ended with exit code 137; it starts again in 1 s")
    # What the first one left (its `sleep`) is gone: keeper, program and child of the second remain.
    assert len(ours()) == 3


def test_a_service_that_never_stays_up_fails_the_start_with_its_log(
    tmp_path: Path, supervisor: Supervisor, said: list[str]
) -> None:
    supervisor.start(Service(name="broken", argv=("sh", "-c", "echo no such setting >&2; exit 3"), rank=0))

    def keeps_ending() -> bool:
        supervisor.check(is_ready=False)
        return False

    with pytest.raises(ServiceFailed, match=r"exit code 3(.|\n)*no such setting"):
        until(keeps_ending)
    assert len(said) == MAX_EARLY_FAILURES - 1


def test_kill_9_of_the_supervisor_leaves_nobody(tmp_path: Path) -> None:
    code = f"""
        import os, sys, time
        from pathlib import Path
        from gateway.admin.services import Service
        from gateway.admin.supervisor import Supervisor
        home = Path({str(tmp_path)!r})
        supervisor = Supervisor(dict(os.environ), home, home / "logs", print)
        for name in ("one", "two"):
            argv = (sys.executable, "-c", {OBEDIENT!r}, name, str(home / "ended"))
            supervisor.start(Service(name=name, argv=argv, rank=0))
        time.sleep(300)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    try:
        until(lambda: all((tmp_path / f"ended.{name}").exists() for name in ("one", "two")))
        started = below(process.pid)
        assert len(started) == 6
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in started))
    assert not (tmp_path / "ended").exists()
