"""A Hub on this machine, as far as a push needs one: repositories, branches, LFS uploads, commits. For tests."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_writes"


@dataclass
class Hub:
    url: str = ""
    #: (repository, branch) -> path -> content.
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)
    #: What was sent, by SHA-256.
    objects: dict[str, bytes] = field(default_factory=dict)
    num_uploads: int = 0
    #: Status of the answers to the next requests, before it works.
    failing: list[int] = field(default_factory=list)


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub, hub.url = hub, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    @property
    def hub(self) -> Hub:
        server: Any = self.server
        return server.hub  # type: ignore[no-any-return]

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        status, made = self.respond(path, body)
        text = json.dumps(made).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if status == 404:
            self.send_header("X-Error-Code", made.get("code", ""))
        self.end_headers()
        self.wfile.write(text)

    def respond(self, path: str, body: bytes) -> tuple[int, Any]:
        if self.hub.failing:
            return self.hub.failing.pop(0), {"error": "not now"}
        if path.startswith("/objects/"):
            assert hashlib.sha256(body).hexdigest() == path.rpartition("/")[2]
            self.hub.objects[path.rpartition("/")[2]] = body
            self.hub.num_uploads += 1
            return 200, {}
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 403, {"error": "this token may not write"}
        for pattern, act in ROUTES:
            if (found := re.fullmatch(pattern, path)) is not None:
                return act(self.hub, found.groupdict(), body)
        return 404, {"error": f"no route {path}", "code": "EntryNotFound"}


def create(hub: Hub, at: dict[str, str], body: bytes) -> tuple[int, Any]:
    asked = json.loads(body)
    name = f"{asked['organization']}/{asked['name']}"
    if (name, "main") in hub.files:
        return 409, {"error": "it is there already", "url": f"{hub.url}/{name}"}
    hub.files[name, "main"], hub.private[name] = {}, asked.get("visibility") == "private" or bool(asked.get("private"))
    return 200, {"url": f"{hub.url}/{name}"}


def branch(hub: Hub, at: dict[str, str], body: bytes) -> tuple[int, Any]:
    hub.files[at["repo"], at["revision"]] = dict(hub.files[at["repo"], "main"])
    return 200, {}


def listed(hub: Hub, at: dict[str, str], body: bytes) -> tuple[int, Any]:
    if (found := hub.files.get((at["repo"], at["revision"]))) is None:
        return 404, {"error": "no such revision", "code": "RevisionNotFound"}
    return 200, [{"type": "file", "path": path, "size": len(found[path]), "oid": "0" * 40} for path in found]


def modes(hub: Hub, at: dict[str, str], body: bytes) -> tuple[int, Any]:
    named = [file["path"] for file in json.loads(body)["files"]]
    files = [{"path": path, "uploadMode": _mode(path), "shouldIgnore": False} for path in named]
    return 200, {"files": files}


def _mode(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", ".gguf")) else "regular"


def batch(hub: Hub, at: dict[str, str], body: bytes) -> tuple[int, Any]:
    objects = [
        {**asked, "actions": {"upload": {"href": f"{hub.url}/objects/{asked['oid']}"}}}
        if asked["oid"] not in hub.objects
        else asked
        for asked in json.loads(body)["objects"]
    ]
    return 200, {"transfer": "basic", "objects": objects}


def commit(hub: Hub, at: dict[str, str], body: bytes) -> tuple[int, Any]:
    files = hub.files[at["repo"], at["revision"]]
    for line in map(json.loads, body.decode().splitlines()):
        value = line["value"]
        if line["key"] == "header":
            hub.commits.append(value)
        elif line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.objects[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    url = f"{hub.url}/{at['repo']}/commit/{'a' * 40}"
    return 200, {"success": True, "commitOid": "a" * 40, "commitUrl": url}


def valid(hub: Hub, at: dict[str, str], body: bytes) -> tuple[int, Any]:
    return 200, {"errors": [], "warnings": []}


REPO = r"(?P<repo>[^/]+/[^/]+)"
ROUTES = (
    (r"/api/repos/create", create),
    (rf"/api/models/{REPO}/branch/(?P<revision>[^/]+)", branch),
    (rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)", listed),
    (rf"/api/models/{REPO}/preupload/(?P<revision>[^/]+)", modes),
    (rf"/api/models/{REPO}/commit/(?P<revision>[^/]+)", commit),
    (rf"/{REPO}\.git/info/lfs/objects/batch", batch),
    (r"/api/validate-yaml", valid),
)
