"""The process between a worker and its child: nothing that the child started outlives the worker, the lease or itself.

torchrun puts every rank in a session of its own and vLLM's engine survives its server, so killing a process group
kills nothing that matters. The keeper is a subreaper: orphans below it become its children, so "no child left" means
"no descendant left". It reads a pipe from its worker (standard input) on which each renewal of the lease arrives as
the monotonic time when that renewal began. End of file (the worker died or wants the child gone) or no renewal for
the limit: every descendant is killed, whatever its session. Nobody else kills.

Started by path (`python -I -S keeper.py LIMIT_SECONDS MEMORY_BYTES PROGRAM ARGUMENT...`), see shared/spawn.py; standard
library only. MEMORY_BYTES is what each process below it may take of the host's memory, 0 for any amount. Exits with the
child's code, 128 + n after signal n, or as the values below say. It ignores SIGTERM and SIGINT: a service manager
may send them to everybody, and stopping is the worker's to decide. What it cannot survive is SIGKILL to itself: then
its direct child dies with it (PDEATHSIG), and the device locks stay with whoever is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import struct
import sys
import time

#: The lease was not renewed in time: the keeper ends by this signal, which no exit code of a child looks like.
EXPIRED = -signal.SIGALRM
#: The worker closed its end of the pipe, or died.
ABANDONED = 125
#: The program could not be started.
NOT_STARTED = 127
#: A renewal: seconds of the monotonic clock, which all processes of a machine share.
RENEWAL = struct.Struct("d")
#: <linux/prctl.h>
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main(argv: list[str]) -> int:
    limit_seconds, memory_bytes, command = float(argv[1]), int(argv[2]), argv[3:]
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    woken = watch_signals()
    code = None
    child = start(command, prctl, memory_bytes)
    deadline = time.monotonic() + limit_seconds
    while code is None:
        ready, _, _ = select.select([0, woken], [], [], max(0.0, deadline - time.monotonic()))
        if woken in ready:
            os.read(woken, 4096)
            code = reap(child)
        elif 0 in ready:
            renewals = os.read(0, 4096)  # writes this small are atomic: always whole renewals
            if renewals:
                deadline = RENEWAL.unpack(renewals[-RENEWAL.size :])[0] + limit_seconds
            else:
                code = ABANDONED
        elif time.monotonic() >= deadline:
            code = EXPIRED
    kill_descendants()
    if code == EXPIRED:
        os.kill(os.getpid(), signal.SIGALRM)
    return code


def watch_signals() -> int:
    """The end of a pipe that becomes readable when a child ends. Handlers, not SIG_IGN: a child would inherit that."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return reading


def start(command: list[str], prctl: ctypes._FuncPointer, memory_bytes: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write("500")  # when memory runs out the kernel takes the child, not the gateway or the ledger
        if memory_bytes:
            resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(command[0], command)
    except BaseException as error:
        sys.stderr.write(f"cannot start {command[0]}: {error}\n")
        sys.stderr.flush()
    os._exit(NOT_STARTED)


def reap(child: int) -> int | None:
    """Collect everyone who has ended; the child's exit code once it is among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
    return code if code is None or code >= 0 else 128 - code


def kill_descendants() -> None:
    """Kill the children, and so theirs become ours, until the kernel says that there is no child.

    No list of all descendants is made: it would be out of date. A chain of processes that each fork and exit within a
    millisecond outran one (measured); as orphans they come to us, and we are faster.
    """
    killed: set[int] = set()
    while True:
        alive = children()
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if alive == killed:
            time.sleep(0.005)  # they take their time, as one does that waits for a device
        killed = alive
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def children() -> set[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as listed:
            return {int(pid) for pid in listed.read().split()}
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return {int(name) for name in os.listdir("/proc") if name.isdigit() and parent(name) == os.getpid()}


def parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The command's name may hold spaces and parentheses: count from its end.
            return int(stat.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
