"""A gateway for tests: its own home, a real ledger, artifacts in a folder, keys. Without workers and broker.

`serve` runs the real thing under gunicorn in a process of its own; `client` is Flask's, for the many small questions.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
from flask import Flask
from flask.testing import FlaskClient

from gateway.factory import create_app
from gateway.services import NAME, Services
from shared import schema
from shared.artifact import ArtifactStore
from shared.records import NewModel
from shared.settings import Settings, process_environment
from shared.spec import DeploySpec
from shared.store import Store

ROWS = [
    {"messages": [{"role": "user", "content": f"Twice {n}?"}, {"role": "assistant", "content": str(2 * n)}]}
    for n in range(12)
]


@dataclass(frozen=True, kw_only=True)
class Platform:
    settings: Settings
    store: Store
    app: Flask
    #: Secret of a key per role.
    keys: dict[str, str]

    @property
    def artifacts(self) -> ArtifactStore:
        return cast(Services, self.app.extensions[NAME]).artifacts

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def headers(self, role: str = "admin") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[role]}"}

    def deploy(self, name: str, url: str, key: str = "key", **spec: Any) -> None:
        """A deployment whose one ready replica is at `url`."""
        project = self.store.projects.default().id
        new = NewModel(name=name, kind="base", uri="store://m", digest="d", size_bytes=1, format="safetensors")
        self.store.models.create(project, new)
        wire = schema.to_wire(schema.load(DeploySpec, {"model": name, **spec}))
        self.store.deployments.create(project, name=name, model_name=name, spec=wire)
        replica = self.store.replicas.claim_next("worker", None)
        assert replica is not None
        self.store.replicas.renew(replica.id, replica.attempt, status="ready", url=url, api_key=key)

    def post(self, path: str, body: Any = None, role: str = "admin", **options: Any) -> Any:
        return self.client.post(path, json=body, headers=self.headers(role) | options.pop("headers", {}), **options)

    def get(self, path: str, role: str = "admin", **options: Any) -> Any:
        return self.client.get(path, headers=self.headers(role) | options.pop("headers", {}), **options)


def make_platform(home: Path, *, hub: bool = False, **settings: Any) -> Platform:
    root = home / "import"
    write_model(root / "tiny")
    made = Settings(home=home, import_roots=[root], hub=hub, **settings)
    store = Store(made.database_url)
    store.migrate()
    project = store.projects.default()
    keys = {role: store.keys.create(project.id, role, role)[1] for role in ("admin", "user", "viewer")}
    return Platform(settings=made, store=store, app=create_app(made, store), keys=keys)


def write_model(folder: Path) -> None:
    """What the door looks at of a model: nothing loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}))
    (folder / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@contextlib.contextmanager
def serve(platform: Platform) -> Iterator[str]:
    """The platform's URL while gunicorn serves it."""
    port = free_port()
    env = {**process_environment("PATH", "HOME"), **platform.settings.environment(), "TUNESMITH_PORT": str(port)}
    command = [sys.executable, "-m", "gunicorn", "--config", "python:gateway.gunicorn_conf", "--no-control-socket"]
    process = subprocess.Popen([*command, "gateway.wsgi:app"], env=env, cwd=platform.settings.home)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(url), 30, "the gateway answers")
        yield url
    finally:
        process.terminate()
        process.wait(20)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def wait_until(check: Any, seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/healthz").status_code == 200
    return False
