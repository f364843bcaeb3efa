"""A PostgreSQL of the tests' own: started from the installed binaries in a temporary folder, gone when they end.

It listens on a unix socket in that folder only, so it disturbs nobody and needs no port. PostgreSQL refuses to run as
root; started by root, it runs as `postgres` or `nobody`. It syncs nothing to disk: a power cut may cost the test data.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

START_SECONDS = 60
PR_SET_PDEATHSIG = 1
#: For speed: the data need not outlive the tests.
CARELESS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200", "shared_buffers=32MB")
HOW_TO_INSTALL = (
    "PostgreSQL's server binaries (initdb, postgres) are neither on PATH nor in /usr/lib/postgresql: install them with "
    "`apt-get install postgresql` (Debian, Ubuntu) or `brew install postgresql`"
)


class NoPostgres(Exception):
    """There is no PostgreSQL server to start on this machine."""


def binaries() -> Path:
    """The folder of initdb and postgres, the newest installed. Raises: NoPostgres"""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(versions, key=lambda folder: float(folder.parent.name), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoPostgres(HOW_TO_INSTALL)


@contextmanager
def cluster() -> Iterator[str]:
    """The URL of the empty database of a fresh cluster, as SQLAlchemy wants it."""
    bin_folder = binaries()
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-pg-", dir="/tmp"))  # a socket's path may have 107 characters
    who = _unprivileged(folder)
    try:
        _run([bin_folder / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", *INITDB], folder, who)
        server = _start(bin_folder, folder, who)
        try:
            _await(folder, server)
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: what it has not written is not wanted
            server.wait(START_SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


INITDB = ("--no-sync", "--no-locale", "-E", "UTF8")


def _unprivileged(folder: Path) -> dict[str, Any]:
    """What makes a child of root run as somebody else, who then owns `folder`; nothing for anybody but root."""
    if os.getuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _run(argv: list[Any], folder: Path, who: dict[str, Any]) -> None:
    done = subprocess.run([str(word) for word in argv], cwd=folder, capture_output=True, text=True, **who)
    assert done.returncode == 0, f"{argv[0]} failed: {done.stdout}{done.stderr}"


def _start(bin_folder: Path, folder: Path, who: dict[str, Any]) -> subprocess.Popen[bytes]:
    settings = [f"unix_socket_directories={folder}", "listen_addresses=", *CARELESS]
    argv = [str(bin_folder / "postgres"), "-D", str(folder / "data")]
    argv += [word for setting in settings for word in ("-c", setting)]
    with (folder / "server.log").open("wb") as log:
        return subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log, preexec_fn=_die_with_parent, **who)


def _die_with_parent() -> None:
    """In the child before it becomes the server: nothing is left behind when the tests are killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


def _await(folder: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(f"host={folder} user=postgres dbname=postgres").close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL did not start: {(folder / 'server.log').read_text()}") from None
            time.sleep(0.05)
