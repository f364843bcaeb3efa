"""The keeper with real processes: whatever happens to worker or child, nothing below survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared import devices, keeper, spawn

#: Starts two processes in sessions of their own, one of them an orphan at once, and tells their pids.
FAMILY = r"""
import os, subprocess, sys, time
sleep = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
orphan = "import subprocess, sys; print(subprocess.Popen(%r, stdout=2, start_new_session=True).pid)" % sleep
first = subprocess.Popen(sleep, start_new_session=True).pid
second = int(subprocess.run([sys.executable, "-S", "-c", orphan], stdout=-1, start_new_session=True).stdout)
with open("pids.part", "w") as file:
    file.write(f"{os.getpid()} {first} {second}")
os.rename("pids.part", "pids")
"""
#: A worker: starts a child under a keeper, renews for ever.
WORKER = r"""
import sys, time
from pathlib import Path
from shared import spawn
folder = Path(sys.argv[1])
kept = spawn.start([sys.executable, "child.py"], env=spawn.environment({}), folder=folder, log=folder / "log",
                   limit_seconds=0.8)
(folder / "keeper").write_text(str(kept.process.pid))
while True:
    kept.renew()
    time.sleep(0.1)
"""


def wait_for(what: Callable[[], bool], seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Zombies do not count: they hold nothing, and wait for a parent that is no longer ours."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def start(folder: Path, code: str, limit_seconds: float = 5.0, locks: tuple[int, ...] = ()) -> spawn.Kept:
    (folder / "child.py").write_text(code)
    return spawn.start(
        [sys.executable, "child.py"],
        env=spawn.environment({}),
        folder=folder,
        log=folder / "log",
        limit_seconds=limit_seconds,
        locks=locks,
    )


def family(folder: Path) -> list[int]:
    wait_for((folder / "pids").exists)
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def test_the_childs_code_is_the_keepers_and_its_leftovers_are_gone(tmp_path: Path) -> None:
    kept = start(tmp_path, FAMILY + "sys.exit(7)")

    assert kept.wait(5) == 7
    assert not [pid for pid in family(tmp_path) if is_alive(pid)]


def test_closing_the_pipe_kills_every_session_below(tmp_path: Path) -> None:
    kept = start(tmp_path, FAMILY + "time.sleep(600)")
    pids = family(tmp_path)
    assert all(is_alive(pid) for pid in pids)

    kept.kill()

    assert kept.wait(5) == keeper.ABANDONED
    assert not [pid for pid in pids if is_alive(pid)]


def test_a_lease_that_is_not_renewed_ends_the_child(tmp_path: Path) -> None:
    kept = start(tmp_path, FAMILY + "time.sleep(600)", limit_seconds=0.5)
    pids = family(tmp_path)
    for _ in range(7):
        kept.renew()
        time.sleep(0.1)
    assert kept.poll() is None
    stopped_at = time.monotonic()

    assert kept.wait(5) == keeper.EXPIRED
    assert 0.2 < time.monotonic() - stopped_at < 2
    assert not [pid for pid in pids if is_alive(pid)]


def test_a_renewal_counts_from_when_it_began(tmp_path: Path) -> None:
    """A worker frozen between commit and pipe must not buy its child a whole limit more."""
    kept = start(tmp_path, "import time; time.sleep(600)", limit_seconds=5.0)
    kept.renew(time.monotonic() - 10)

    assert kept.wait(2) == keeper.EXPIRED


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_nothing_outlives_a_worker_that_is(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "child.py").write_text(FAMILY + "time.sleep(600)")
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)])
    try:
        pids = [*family(tmp_path), int((tmp_path / "keeper").read_text())]
        assert all(is_alive(pid) for pid in pids)

        worker.send_signal(number)

        wait_for(lambda: not any(is_alive(pid) for pid in pids))
    finally:
        worker.kill()
        worker.wait()


def test_a_keeper_below_a_keeper_takes_its_own_along(tmp_path: Path) -> None:
    """As under `tunesmith up`, where the worker itself is kept."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "child.py").write_text(FAMILY + "time.sleep(600)")
    argv = [sys.executable, "-c", WORKER, str(inner)]
    outer = spawn.start(argv, env=dict(os.environ), folder=tmp_path, log=tmp_path / "log", limit_seconds=60)
    pids = [*family(inner), int((inner / "keeper").read_text())]

    outer.kill()
    outer.wait(5)

    wait_for(lambda: not any(is_alive(pid) for pid in pids))


def test_processes_that_fork_while_being_killed_are_killed_too(tmp_path: Path) -> None:
    """A chain that forks as fast as it can and lets each parent die: the list of processes is always out of date."""
    chain = """
import os, time
open("pids", "w").write(str(os.getpid()))
for _ in range(3):
    os.fork()
until = time.monotonic() + 20
while time.monotonic() < until:
    if os.fork():
        os._exit(0)
    os.setsid()
"""
    kept = start(tmp_path, "import os, time\nif os.fork():\n    time.sleep(600)\n" + chain)
    wait_for((tmp_path / "pids").exists)
    time.sleep(0.3)

    kept.kill()
    kept.wait(10)

    left = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    mine = [line for line in left.splitlines() if "child.py" in line and in_folder(int(line.split()[0]), tmp_path)]
    assert not mine


def in_folder(pid: int, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(folder)
    except OSError:
        return False


@pytest.mark.parametrize(
    ("code", "expected"),
    [("raise SystemExit(3)", 3), ("raise SystemExit(124)", 124), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_exit_codes(tmp_path: Path, code: str, expected: int) -> None:
    assert start(tmp_path, code).wait(5) == expected


def test_a_child_finds_the_programs_beside_its_interpreter(tmp_path: Path) -> None:
    interpreter = tmp_path / "bin" / "python3"
    interpreter.parent.mkdir()
    interpreter.symlink_to(sys.executable)
    tool = tmp_path / "bin" / "ninja"
    tool.write_text("#!/bin/sh\nexit 5\n")
    tool.chmod(0o755)
    code = "import subprocess; raise SystemExit(subprocess.call(['ninja']))"

    kept = spawn.start([str(interpreter), "-c", code], env={}, folder=tmp_path, log=tmp_path / "log", limit_seconds=5)

    assert kept.wait(5) == 5


def test_a_program_that_is_not_there_is_said_in_the_log(tmp_path: Path) -> None:
    kept = spawn.start(["no-such-program"], env={}, folder=tmp_path, log=tmp_path / "log", limit_seconds=5)

    assert kept.wait(5) == keeper.NOT_STARTED
    assert "no-such-program" in (tmp_path / "log").read_text()


def test_a_service_managers_sigterm_is_not_the_keepers_to_decide(tmp_path: Path) -> None:
    kept = start(tmp_path, FAMILY + "time.sleep(600)")
    pids = family(tmp_path)

    kept.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)

    assert kept.poll() is None
    assert all(is_alive(pid) for pid in pids)
    kept.kill()
    kept.wait(5)


def test_devices_are_free_when_and_only_when_the_child_is_gone(tmp_path: Path) -> None:
    taken = devices.take(tmp_path, ["gpu-1", "gpu-0", "gpu-2"], 2, {"id": "job-1", "kind": "train"})
    assert isinstance(taken, devices.Taken)
    assert taken.names == ("gpu-0", "gpu-1")
    kept = start(tmp_path, "import time; time.sleep(600)", locks=taken.descriptors)

    taken.close()  # the worker's own copies; the keeper's hold on

    busy = devices.take(tmp_path, ["gpu-0", "gpu-1", "gpu-2"], 2, {"id": "job-2", "kind": "train"})
    assert isinstance(busy, devices.Busy)
    assert str(busy) == "gpu-0 is held by job-1, gpu-1 is held by job-1"
    assert len(devices.free(tmp_path, ["gpu-0", "gpu-1", "gpu-2"])) == 1
    kept.kill()
    kept.wait(5)
    assert len(devices.free(tmp_path, ["gpu-0", "gpu-1", "gpu-2"])) == 3


def test_a_child_sees_only_what_it_may_of_the_workers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("TUNESMITH_BROKER_URL", "redis://secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = "import os, json; open('env', 'w').write(json.dumps(dict(os.environ)))"
    (tmp_path / "child.py").write_text(code)
    env = spawn.environment({"HF_TOKEN": "of this job"})

    kept = spawn.start([sys.executable, "child.py"], env=env, folder=tmp_path, log=tmp_path / "log", limit_seconds=5)

    assert kept.wait(5) == 0
    seen = (tmp_path / "env").read_text()
    assert "of this job" in seen
    assert "HF_HUB_OFFLINE" in seen
    assert "TUNESMITH" not in seen
    assert "secret" not in seen


def test_the_parent_of_a_process_is_found_without_the_kernels_list(tmp_path: Path) -> None:
    """What the keeper falls back to; a name with parentheses and spaces must not confuse it."""
    odd = tmp_path / "a ) R 1 (b"
    odd.write_bytes(Path("/bin/sleep").read_bytes())
    odd.chmod(0o700)
    process = subprocess.Popen([str(odd), "60"])
    try:
        wait_for(lambda: ") R 1 (" in Path(f"/proc/{process.pid}/stat").read_text())
        assert keeper.parent(str(process.pid)) == os.getpid()
        assert keeper.parent("99999999") == 0
    finally:
        process.kill()
        process.wait()
