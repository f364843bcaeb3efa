"""The platform the demo talks to: one that answers already, else its own, started with `tunesmith up` and stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from gateway.cli.client import Client, connect
from shared.errors import TunesmithError
from shared.settings import Settings

#: The first start migrates the ledger and starts eight processes on two cores.
START_SECONDS = 180.0
#: A running job writes its checkpoint before its worker ends.
STOP_SECONDS = 120.0


class PlatformFailed(TunesmithError):
    """The platform did not start."""


class Platform:
    """`tunesmith up` in a session of its own, so that Ctrl-C reaches the demo alone, which then stops it in order."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_ours(self) -> bool:
        return self._process is not None

    def ensure(self) -> Client:
        """A client of a platform that is ready."""
        if client := self._answering():
            return client
        self._process = self._start()
        return self._wait(self._process)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # Its services notice that it is gone and end with it.
            self._process.kill()
            self._process.wait()
        self._process = None

    def left_running(self) -> str:
        """How to stop it, for who wants it kept."""
        if self._process is None:
            return "The platform is running as before."
        return f"The platform is running; `kill {self._process.pid}` stops it."

    @property
    def log(self) -> Path:
        return self._settings.home / "logs" / "up.log"

    def _answering(self) -> Client | None:
        client = connect(self._settings)
        if client.key and client.is_ready():
            return client
        client.close()
        return None

    def _start(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            argv = [sys.executable, "-m", "gateway.cli", "up"]
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def _wait(self, process: subprocess.Popen[bytes]) -> Client:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if process.poll() is not None:
                raise PlatformFailed(self.log.read_text(errors="replace")[-2000:].strip())
            if client := self._answering():
                return client
            time.sleep(0.3)
        raise PlatformFailed(f"the platform is not ready after {START_SECONDS:.0f} s: see {self.log}")
