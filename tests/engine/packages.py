"""Where pip takes packages from on this machine, told to image builds.

Folders of wheels (`find-links`, `file:` indexes) are not seen from within a build: they are served on the loopback
address, which a build with the machine's network reaches.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

#: pip's option, and the build argument of that meaning.
OPTIONS = {"index-url": "PIP_INDEX_URL", "extra-index-url": "PIP_EXTRA_INDEX_URL", "find-links": "PIP_FIND_LINKS"}
#: Of builds from indexes, and of those from wheels alone.
PORTS = (18723, 18724)
#: How long another build on this machine may take.
PATIENCE_SECONDS = 1800


class Packages(AbstractContextManager["Packages"]):
    """Serves local folders of wheels while it is open.

    On a port that is always the same: addresses are arguments of the build, and others would be another build.
    """

    def __init__(self, wheels: Path | None = None) -> None:
        #: A folder that has everything: no index is asked.
        self.wheels = wheels
        self.folders: list[Path] = []
        self.server = _bound(PORTS[wheels is not None], partial(Shelf, self.folders))
        #: Build arguments by name.
        self.arguments: dict[str, str] = {}

    def __enter__(self) -> Packages:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        if self.wheels is not None:
            self.arguments |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": self._reachable(str(self.wheels))}
            return self
        for option, places in configured().items():
            self.arguments[OPTIONS[option]] = " ".join(self._reachable(place) for place in places)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _reachable(self, place: str) -> str:
        folder = Path(urlsplit(place).path)
        if urlsplit(place).scheme not in ("", "file") or not folder.is_dir():
            return place
        # The parent: an index names its files by ../../files.
        self.folders.append(folder.parent)
        return f"http://127.0.0.1:{self.server.server_port}/{len(self.folders) - 1}/{folder.name}/"


def _bound(port: int, handler: Any) -> ThreadingHTTPServer:
    """Once nobody else builds here: two builds at once would only be slower."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


class Shelf(SimpleHTTPRequestHandler):
    """/0/... is the first folder, /1/... the second."""

    def __init__(self, folders: list[Path], *args: Any, **settings: Any) -> None:
        self.folders = folders
        super().__init__(*args, **settings)

    def translate_path(self, path: str) -> str:
        number, _, rest = path.lstrip("/").partition("/")
        self.directory = str(self.folders[int(number)]) if number.isdigit() else "/nonexistent"
        return super().translate_path("/" + rest)

    def log_message(self, format: str, *args: object) -> None:
        return


def configured() -> dict[str, list[str]]:
    """Indexes and folders of pip's files and environment here."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    found: dict[str, list[str]] = {}
    for line in said.splitlines():
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2].replace("_", "-")
        if option in OPTIONS:
            known = found.setdefault(option, [])
            known += [place for place in " ".join(shlex.split(value)).split() if place not in known]
    return found
